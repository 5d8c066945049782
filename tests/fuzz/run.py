"""Feed records, states, checkpoints and messages that nobody has written to what reads them, guided by its coverage.

    make fuzz ARGS="--seconds 3600 --asan"      # pip install -e '.[fuzz]' first

atheris (libFuzzer for Python) grows inputs that reach new branches of alq_hvd. A reader may accept what it is given or
refuse it with an error of ours. Anything else is a finding: another exception, a crash, more than 2 GB, 10 seconds, or,
for checkpoints, anything that is executed. ``--asan`` also gives records made by chance to the C++ codec compiled with
the address and undefined-behaviour sanitisers, where reading or writing beside an array is a crash. Inputs of findings
stay in .cache/fuzz/.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".cache" / "fuzz"
LIMITS = ("-rss_limit_mb=2048", "-timeout=10", "-max_len=4096", "-print_final_stats=1")
_PROGRESS = re.compile(r"#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)/")


def records(data: Any) -> None:
    """Decode a record that was valid, with bytes of it replaced, on all codecs; half of them sealed again."""
    if data.ConsumeBool():
        config, levels = KIT.widths(data)
    else:
        config = KIT.config(data)
        levels = KIT.levels(data, config.bits)
    elements = data.ConsumeIntInRange(0, 4096)
    layout = KIT.RecordLayout(elements, config)
    stamp = KIT.Stamp(levels.digest, 5, 1)
    record, *others = (codec.encode(KIT.values(elements), layout, levels, KIT.key(), stamp) for codec in KIT.codecs)
    if not all(KIT.equal(record, other) for other in others):
        raise AssertionError(f"codecs encode differently: {config}")
    for _ in range(data.ConsumeIntInRange(0, 8)):
        place, piece = data.ConsumeIntInRange(0, record.size - 1), KIT.array(data.ConsumeBytes(16))[: record.size]
        place = min(place, record.size - piece.size)
        record[place : place + piece.size] = piece
    if data.ConsumeBool():
        KIT.seal(record, layout, stamp)
    if data.ConsumeBool():
        record = record[: data.ConsumeIntInRange(0, record.size)].copy()
    decoded = []
    for codec in KIT.codecs:
        try:
            decoded.append(codec.decode_sum([record, record], layout, levels, [stamp] * 2, 0.5))
        except KIT.WireFormatError as error:
            decoded.append(str(error))
    first = decoded[0]
    for other in decoded[1:]:
        same = other == first if isinstance(first, str) or isinstance(other, str) else KIT.equal(first, other)
        if not same:
            raise AssertionError(f"codecs decode differently: {config} {first!r} {other!r}")


def messages(data: Any) -> None:
    """Read what ranks send each other beside records: statistics, and the announcement of levels."""
    if data.ConsumeBool():
        raw = KIT.changed(data, KIT.statistics_bytes)
        try:
            summary = KIT.GradientStatistics.from_bytes(raw)
            (summary + summary).usable  # noqa: B018
        except KIT.AlqError:
            return
        return
    current = KIT.levels(data, 3)
    raw = KIT.changed(data, KIT.announcement)
    announcement = KIT.array(raw.ljust(len(KIT.announcement), b"\0")[: len(KIT.announcement)])
    try:
        KIT.read_announcement(announcement, current, 1)
    except KIT.AlqError:
        return


def states(data: Any) -> None:
    """Load the state of a compression in which values were replaced, removed or moved."""
    compression = KIT.compression(data.ConsumeIntInRange(0, 3))
    state = KIT.copy(KIT.states[data.ConsumeIntInRange(0, len(KIT.states) - 1)])
    for _ in range(data.ConsumeIntInRange(1, 4)):
        KIT.mutate(data, state)
    try:
        compression.load_state_dict(state)
    except KIT.AlqError:
        return
    compression.state_dict()
    compression.metrics()


def checkpoints(data: Any) -> None:
    """Read a checkpoint file, whose hash is right as often as not, and what is in it."""
    kind = data.ConsumeIntInRange(0, 2)
    raw = KIT.changed(data, KIT.packed_states[data.ConsumeIntInRange(0, len(KIT.packed_states) - 1)])
    KIT.watch.clear()
    if kind:
        with contextlib.suppress(KIT.AlqError):
            KIT.unpack(raw, "fuzzed")
    else:
        file = KIT.store.directory / "step-000000001.ckpt"
        file.write_bytes(raw if data.ConsumeBool() else KIT.whole_file(raw))
        with contextlib.suppress(KIT.AlqError):
            KIT.unpack(KIT.store.newest().payload, "fuzzed")
    if KIT.watch:
        raise AssertionError(f"reading a checkpoint did {KIT.watch}")


TARGETS: dict[str, Callable[[Any], None]] = {
    "records": records,
    "messages": messages,
    "states": states,
    "checkpoints": checkpoints,
}
KIT: Any = None
"""What the targets use, imported when one runs, so that its code is instrumented."""


def fuzz(name: str, libfuzzer: list[str]) -> None:
    """Run one target in this process; never returns."""
    import atheris
    import torch  # whole, and before: only what reads pickles is instrumented of it, imported again

    unpickler = "torch._weights_only_unpickler"
    del sys.modules[unpickler]
    with atheris.instrument_imports(include=["alq_hvd", unpickler]):
        torch.serialization._weights_only_unpickler = importlib.import_module(unpickler)
        from tests.fuzz import kit
    global KIT
    KIT = kit.Kit(FOLDER / name)
    KIT.prepare(name)

    def one(raw: bytes) -> None:
        TARGETS[name](atheris.FuzzedDataProvider(raw))

    atheris.Setup([sys.argv[0], *libfuzzer], one)
    atheris.Fuzz()


def try_by_chance(name: str, seconds: float) -> int:
    """Run one target for some seconds without coverage, which gcc's sanitisers and libFuzzer cannot both have."""
    from tests.fuzz.chance import Chance
    from tests.fuzz.kit import Kit

    global KIT
    KIT = Kit(FOLDER / name)
    KIT.prepare(name)
    first = time.time_ns()
    seed, end = first, time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            TARGETS[name](Chance(seed))
        except Exception:
            (FOLDER / name / "findings" / f"seed-{seed}").write_text(traceback.format_exc())
            raise
        seed += 1
    print(f"#{seed - first} DONE cov: 0 ft: 0 corp: 0/")
    return 0


def build_with_sanitisers() -> tuple[Path, dict[str, str]]:
    """Compile the C++ codec with sanitisers into a folder of its own; return it and what a process needs to load it."""
    folder = FOLDER / "asan" / "alq_hvd" / "codec"
    folder.mkdir(parents=True, exist_ok=True)
    import pybind11

    target = folder / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    flags = ["-O1", "-g", "-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-pthread",
             "-Wno-psabi", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]  # fmt: skip
    includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
    files = sorted((ROOT / "alq_hvd/codec/csrc").iterdir())
    if not target.exists() or target.stat().st_mtime < max(file.stat().st_mtime for file in files):
        sources = [str(file) for file in files if file.suffix == ".cpp"]
        subprocess.run(["g++", *flags, *includes, *sources, "-o", str(target)], check=True)
    library = subprocess.run(["g++", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True)
    return target, {
        "LD_PRELOAD": library.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:handle_segv=0",
        "ALQ_HVD_FUZZ_NATIVE": str(target),
    }


def run_target(name: str, seconds: int, variables: dict[str, str]) -> dict[str, Any]:
    """Run one target in a process of its own for ``seconds``, and return what it came to."""
    folder = FOLDER / name
    corpus, findings = folder / "corpus", folder / "findings"
    for path in (corpus, findings):
        path.mkdir(parents=True, exist_ok=True)
    before = set(findings.iterdir())
    command = [sys.executable, "-m", "tests.fuzz.run", "--run", name]
    if variables:
        command += ["--chance", str(seconds)]
    else:
        command += ["--", str(corpus), f"-max_total_time={seconds}", f"-artifact_prefix={findings}/", *LIMITS]
    began = time.monotonic()
    log = folder / "log"
    with log.open("w") as output:
        status = subprocess.run(
            command, stdout=output, stderr=output, cwd=ROOT, env={**os.environ, **variables}, check=False
        )
    progress = _PROGRESS.findall(log.read_text(errors="replace"))
    runs, coverage, features, inputs = (int(number) for number in progress[-1]) if progress else (0, 0, 0, 0)
    found = sorted(path.name for path in set(findings.iterdir()) - before)
    return {
        "target": name,
        "seconds": round(time.monotonic() - began),
        "runs": runs,
        "edges": coverage,
        "features": features,
        "corpus": inputs,
        "sanitisers": bool(variables),
        "findings": found,
        "status": status.returncode,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=540, help="of all targets together (default: %(default)s)")
    parser.add_argument("--target", choices=TARGETS, action="append", help="default: all")
    parser.add_argument("--asan", action="store_true", help="compile the C++ codec with sanitisers for it")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "fuzz.json")
    parser.add_argument("--run", choices=TARGETS, help=argparse.SUPPRESS)
    parser.add_argument("--chance", type=float, help=argparse.SUPPRESS)
    parser.add_argument("libfuzzer", nargs="*", help="options of libFuzzer, with --run")
    args = parser.parse_args()
    if args.run:
        if args.chance:
            return try_by_chance(args.run, args.chance)
        fuzz(args.run, args.libfuzzer)
    from alq_hvd import machine

    variables = build_with_sanitisers()[1] if args.asan else {}
    chosen = args.target or list(TARGETS)
    outcomes = []
    runs = [(name, dict[str, str]()) for name in chosen] + [("records", variables)] * bool(variables)
    for name, environment in runs:
        outcomes.append(run_target(name, max(1, args.seconds // len(runs)), environment))
        print(json.dumps(outcomes[-1]), flush=True)
    kept = json.loads(args.output.read_text())["targets"] if args.output.exists() else []
    targets = {(each["target"], each["sanitisers"]): each for each in [*kept, *outcomes]}
    stored = {"machine": machine.describe(), "targets": list(targets.values())}
    args.output.write_text(json.dumps(stored, indent=1) + "\n")
    return int(any(each["findings"] or each["status"] or not each["runs"] for each in outcomes))


if __name__ == "__main__":
    sys.exit(main())
