"""How many instructions the GPU codec issues for an element, counted in the machine code of its kernels without a GPU.

python benchmarks/sass.py [--arch sm_90] [--cuda 13.0] [--output benchmarks/results/sass-sm_90.json]

The kernels are compiled with line numbers, which changes no instruction, and disassembled. An instruction counts as
often as a thread meets it, over the elements a thread takes: the sources mark, by a word in brackets in a comment,
lines whose instructions are met never ("rare"), once a record, at one width of codes, or by one warp of eight;
``CASES`` says how often each.
What is within a branch that only some lanes or warps take, and is not marked, counts in full: a count is an upper bound
of the kernel's main path.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from alq_hvd.codec.cuda_kernels import FOLDER, OPTIONS, SOURCE, whole  # noqa: E402
from tests.support.compile_matrix import disassembler  # noqa: E402
from tests.support.nvrtc import Nvrtc  # noqa: E402

PER_THREAD = 32
MARK = re.compile(r"// .*?\[([a-z0-9' ]+)\]\s*$")
ISSUED = 132 * 4 * 32 * 1.98e9 * 0.8
"""Instructions of threads that an H100 or H200 issues a second: multiprocessors, schedulers, lanes, clock, and the
share of its time that a scheduler finds work, an assumption."""
ROOFS = {"H100": 3.0e12, "H200": 4.3e12}
"""Bytes a second that a copy moves, read and written, as others have measured."""
MEMORY_BOUND = 0.9
"""Share of a copy's speed at which memory is the limit rather than instructions."""
ONE_BUCKET = {"tiles 8": 1.0, "fold": 1 / 8, "one warp": 1 / 8, "bucket's end": 1 / 8}
"""Buckets as large as a chunk: one warp of eight folds the sums of the only one."""


@dataclass(frozen=True)
class Case:
    """Say which kernel is counted, and how often what is marked in its sources is met; what is not named, never.

    Attributes:
        name: of the row.
        kernel: with its template arguments.
        most: the goal, instructions an element; where ranks round together, or records are dithered, a little more than
            was reached.
        weights: by mark.
        bytes_moved: of device memory, an element.
    """

    name: str
    kernel: str
    most: int
    weights: Mapping[str, float]
    bytes_moved: float


ALONE = {**ONE_BUCKET, "alone": 1.0}
TOGETHER = {**ONE_BUCKET, "together": 1.0, "shift": 1.0}
"""A rank that draws from strata. They are shifted where the sums are folded."""
ONE_RUN = {"run": 1.0, "round": 1.0, "one warp": 1 / 8}
"""Records of the same signs, which are rotated back once."""
EDEN = {"round": 2.0, "again": 1.0, "one warp": 1 / 8}
"""Two rounds; "again" is met between them."""
CASES = (
    Case("encode, 3 bits", "alq::encode<float, 3>", 40, ALONE, 4.375),
    Case("encode, 4 bits", "alq::encode<float, 4>", 40, ALONE, 4.5),
    Case("encode together, 3 bits", "alq::encode<float, 3>", 46, TOGETHER, 4.375),
    Case("encode together, 4 bits", "alq::encode<float, 4>", 46, TOGETHER, 4.5),
    Case("decode_sum of 8, 3 bits", "alq::decode_sum<float, 3, false>", 70, {"record": 8}, 7),
    Case("decode_sum of 8, 4 bits", "alq::decode_sum<float, 4, false>", 70, {"record": 8}, 8),
    Case("decode_sum of 1, 4 bits", "alq::decode_sum<float, 4, false>", 20, {"record": 1}, 4.5),
    Case("decode_sum of 1 dithered, 4 bits", "alq::decode_sum<float, 4, true>", 34, {"record": 1}, 4.5),
    Case("decode_sum of 8 dithered, 4 bits", "alq::decode_sum<float, 4, true>", 192, {"record": 8}, 8),
    Case("decode_sum by width of 8, 1 bit", "alq::decode_by_width<float, false>", 118, {"record": 8, "width 1": 1}, 5),
    Case("decode_sum by width of 8, 3 bits", "alq::decode_by_width<float, false>", 118, {"record": 8, "width 3": 1}, 7),
    Case("decode_sum by width of 8, no bits", "alq::decode_by_width<float, false>", 60, {"record": 8}, 4),
    Case(
        "decode_sum by width of 1, 3 bits", "alq::decode_by_width<float, false>", 26, {"record": 1, "width 3": 1}, 4.4
    ),
    Case("encode rotated, 3 bits", "alq::encode_rotated<float, 3, false>", 60, {**ALONE, "round": 1}, 4.375),
    Case(
        "encode rotated together, 3 bits", "alq::encode_rotated<float, 3, false>", 66, {**TOGETHER, "round": 1}, 4.375
    ),
    Case("EDEN encode, 3 bits", "alq::encode_rotated<float, 3, true>", 78, {**ALONE, **EDEN}, 4.375),
    Case("decode_rotated of 1, 3 bits", "alq::decode_rotated<float, 3, false>", 40, {"alone": 1, **ONE_RUN}, 4.375),
    Case(
        "decode_rotated of 8, 3 bits",
        "alq::decode_rotated<float, 3, false>",
        *(88, {"summed": 1, "record": 8, **ONE_RUN}, 7),
    ),
    Case("EDEN decode of 1, 3 bits", "alq::decode_rotated<float, 3, false>", 58, {"alone": 1, **EDEN, "run": 1}, 4.375),
    Case(
        "EDEN decode of 8, 3 bits",
        "alq::decode_rotated<float, 3, false>",
        *(425, {"alone": 1, **EDEN, "run": 8, "next run": 7}, 7),
    ),
    Case("recode 4 x 4 -> 4", "alq::recode<4, 4>", 100, {**ALONE, "record": 4}, 2.5),
)


@dataclass(frozen=True)
class Count:
    """Say what was counted.

    Attributes:
        case: the row's name.
        kernel: that was counted.
        instructions: an element.
        goal: at most.
        registers: a thread.
        spilled: instructions that move registers to memory or back.
        kinds: instructions an element by opcode, the most frequent ones.
        bytes_moved: of device memory, an element.
    """

    case: str
    kernel: str
    instructions: float
    goal: int
    registers: int
    spilled: int
    bytes_moved: float
    kinds: Mapping[str, float] = field(repr=False)


@dataclass(frozen=True)
class Line:
    """Be one instruction: its opcode, and the source lines it came from by way of inlining."""

    opcode: str
    where: frozenset[tuple[str, int]]
    spills: bool


def counted(nvrtc: Nvrtc, arch: str, cases: Sequence[Case] = CASES) -> list[Count]:
    """Return a count a case."""
    return [count(nvrtc, arch, case) for case in cases]


def count(nvrtc: Nvrtc, arch: str, case: Case) -> Count:
    """Compile the kernel of ``case`` and count."""
    symbol, code = machine_code(nvrtc, arch, case.kernel)
    kinds: Counter[str] = Counter()
    lines = list(instructions(code, symbol))
    marked = marks()
    for line in lines:
        weight = 1.0
        for place in line.where & marked.keys():
            weight *= case.weights.get(marked[place], 0.0)
        kinds[line.opcode.split(".")[0]] += weight / PER_THREAD  # type: ignore[assignment]
    return Count(
        *(case.name, case.kernel, round(sum(kinds.values()), 2), case.most, registers(code, symbol)),
        *(sum(line.spills for line in lines), case.bytes_moved),
        {kind: round(number, 2) for kind, number in kinds.most_common(24) if number > 0.005},
    )


def machine_code(nvrtc: Nvrtc, arch: str, kernel: str) -> tuple[str, bytes]:
    """Return the symbol and the machine code of a kernel, with line numbers."""
    program = nvrtc.createProgram(SOURCE, "alq.cu", (), ())
    try:
        nvrtc.addNameExpression(program, kernel)
        nvrtc.compileProgram(program, (*OPTIONS, f"--gpu-architecture={arch}", "--generate-line-info"))
        return nvrtc.getLoweredName(program, kernel), whole(nvrtc.getCUBIN(program))
    finally:
        nvrtc.destroyProgram(program)


def instructions(code: bytes, symbol: str) -> Iterator[Line]:
    """Yield the instructions of the function ``symbol`` but for the padding behind its end."""
    text, inside = disassembled(code, "--print-code", "--print-line-info-inline"), False
    places: set[tuple[str, int]] = set()
    fresh = True
    for line in text.splitlines():
        if line.lstrip().startswith(".section"):
            inside = f".text.{symbol}," in line
        if not inside:
            continue
        if line.startswith("\t//## File"):
            if fresh:
                places, fresh = set(), False
            places |= {(Path(file).name, int(number)) for file, number in re.findall(r'"([^"]+)", line (\d+)', line)}
            continue
        found = re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?([A-Z][A-Z0-9_.]*)", line)
        if found:
            fresh = True
            if found.group(1) != "NOP":
                yield Line(found.group(1), frozenset(places), "SpillRefill" in line)


@cache
def marks() -> dict[tuple[str, int], str]:
    """Return what the sources say of their lines: (file, line) -> mark."""
    files = [path for part in ("csrc", "cuda") for path in sorted((FOLDER / part).iterdir())]
    found = {}
    for path in files:
        body, end = "", ""
        for number, line in enumerate(path.read_text().splitlines(), 1):
            mark = MARK.search(line)
            if mark or body:
                found[path.name, number] = mark.group(1) if mark else body
            if (
                mark and line.split("//")[0].rstrip().endswith("{") and not re.search(r"\b(for|if) \(", line)
            ):  # a function: all of it
                wrapped = line.count(")") > line.count("(")  # the signature: it began at the left margin
                body, end = mark.group(1), "}" if wrapped else line[: len(line) - len(line.lstrip())] + "}"
            if body and line == end:
                body = ""
    return found


def registers(code: bytes, symbol: str) -> int:
    """Return the registers of a thread."""
    said = rf"EIATTR_REGCOUNT\s(?:(?!EIATTR).)*?index@\({re.escape(symbol)}\)\s+/\*\w+\*/\s+\.word\s+(0x\w+)"
    found = re.search(said, disassembled(code), re.S)
    assert found, f"nvdisasm says no registers of {symbol}"
    return int(found.group(1), 16)


def disassembled(code: bytes, *options: str) -> str:
    """Return what nvdisasm prints."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        command = [str(disassembler()), *options, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def predicted(instructions: float, bytes_moved: float) -> dict[str, float]:
    """Return the share of a copy's speed to expect of each GPU: a prediction from a count, nothing measured."""
    moved = ISSUED / instructions * bytes_moved
    return {gpu: round(min(moved / roof, MEMORY_BOUND), 2) for gpu, roof in ROOFS.items()}


def main() -> None:
    """Count, print a table and store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("--cuda", default="13.0", help="version of the run-time compiler (default: %(default)s)")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    nvrtc = Nvrtc(options.cuda)
    counts = []
    print(f"{'':26}{'instructions':>14}{'goal':>6}{'registers':>11}{'spilled':>9}   predicted share of a copy")
    for case in CASES:
        if options.only in case.name:
            found = count(nvrtc, options.arch, case)
            counts.append(found)
            print(
                f"{found.case:<26}{found.instructions:>14.1f}{found.goal:>6}{found.registers:>11}{found.spilled:>9}   "
                + ", ".join(
                    f"{gpu} {share:.0%}" for gpu, share in predicted(found.instructions, found.bytes_moved).items()
                )
            )
            if options.only:
                print(found.kinds)
    if not options.only:
        output = options.output or ROOT / "benchmarks" / "results" / f"sass-{options.arch}.json"
        compiler = ".".join(map(str, nvrtc.getVersion()))
        stored = {"compiler": f"NVRTC {compiler}", "arch": options.arch, "counts": [asdict(each) for each in counts]}
        stored["predicted"] = {each.case: predicted(each.instructions, each.bytes_moved) for each in counts}
        output.write_text(json.dumps(stored, indent=1) + "\n")
        print(f"\nkept in {output}")


if __name__ == "__main__":
    main()
