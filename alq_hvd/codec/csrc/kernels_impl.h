// The CPU kernels, written with vectors of ALQ_WIDTH floats. Each kernels_*.cpp includes this file inside its own
// namespace and under its own instruction set; there is no include guard on purpose.
#include "lanes.h"
#include "search.h"
#include "rotate.h"
#include "norms.h"
#include "encode.h"
#include "decode.h"
#include "decode_rotated.h"
#include "decode_by_width.h"
#include "gather.h"
