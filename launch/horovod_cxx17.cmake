# Horovod 0.28.1 asks for C++14, PyTorch's headers need C++17: wherever Horovod says 14, let the compiler hear 17.
set(CMAKE_CXX14_STANDARD_COMPILE_OPTION "-std=c++17")
