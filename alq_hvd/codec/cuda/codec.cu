// All CUDA kernels of alq_hvd. cuda_codec.py compiles the instances it needs with NVRTC; tests compile every one of them for
// sm_80 and sm_90, and run them on the CPU (tests/native/emulate_cuda.h).
#include "decode_by_width.cuh"
#include "statistics.cuh"
