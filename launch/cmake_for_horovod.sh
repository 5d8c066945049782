#!/bin/sh
# Stand in for cmake (HOROVOD_CMAKE names this script) so that Horovod builds for today's PyTorch without a patch of its source.
# Horovod strips -std= from CXXFLAGS, so CMake's own hook for a project is the way in. ALQ_HVD_CMAKE: the cmake to run.
here=$(cd "$(dirname "$0")" && pwd)
case " $* " in
    *" --build "* | *" -E "* | *" --version "*) exec "${ALQ_HVD_CMAKE:-cmake}" "$@" ;;
esac
exec "${ALQ_HVD_CMAKE:-cmake}" "-DCMAKE_PROJECT_horovod_INCLUDE=$here/horovod_cxx17.cmake" "$@"
