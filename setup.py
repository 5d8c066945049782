"""Build the C++ codec, the emulated accumulator and the signal handler of workers; all else is in setup.cfg."""

from glob import glob

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup

# The three codecs produce the same bytes only while no multiply and add are fused (-ffp-contract=off); -ffast-math
# would break NaN, Inf and the order of sums. errno and floating-point traps are never read here, and giving them up
# lets plain loops become vector code. No -march: a wheel must run on other machines than the one that built it.
EXACT_AND_FAST = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-pthread", "-Wno-psabi"]

native_codec = Pybind11Extension(
    "alq_hvd.codec._native",
    sorted(glob("alq_hvd/codec/csrc/*.cpp")),
    depends=sorted(glob("alq_hvd/codec/csrc/*.h")),
    cxx_std=17,
    extra_compile_args=EXACT_AND_FAST,
    extra_link_args=["-pthread"],
)

narrow_accumulator = Pybind11Extension(
    "alq_hvd.accumulation._native",
    ["alq_hvd/accumulation/narrow.cpp"],
    cxx_std=17,
    extra_compile_args=EXACT_AND_FAST,
)

signal_shield = Pybind11Extension("alq_hvd.checkpoint._shield", ["alq_hvd/checkpoint/shield.cpp"], cxx_std=17)

setup(ext_modules=[native_codec, narrow_accumulator, signal_shield], cmdclass={"build_ext": build_ext})
