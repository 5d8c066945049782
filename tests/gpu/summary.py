"""Print what became of the GPU tests, a line a file, and keep it as JSON: summary.py TESTS.xml SUMMARY.json."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from tests.gpu.conftest import collect_ignore

OUTCOMES = ("passed", "failed", "skipped")


def outcome(case: ElementTree.Element) -> str:
    """Return one of ``OUTCOMES``."""
    kinds = {child.tag for child in case}
    return "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"


def gpu() -> str:
    """Return the name of the GPU, or say that there is none."""
    import torch

    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else "no GPU"


def main() -> None:
    """Read, print and write."""
    source, target = map(Path, sys.argv[1:])
    if not source.exists():
        sys.exit(f"{source} was not written: the tests were ended before their end")
    cases = list(ElementTree.parse(source).getroot().iter("testcase"))
    files = sorted({case.get("classname", "").split(".")[-1] for case in cases})
    counts = {
        file: Counter(outcome(case) for case in cases if case.get("classname", "").endswith(file)) for file in files
    }
    reasons = Counter(child.get("message") for case in cases for child in case if child.tag == "skipped")
    stored = {"gpu": gpu(), "files": counts, "skipped_because": reasons}
    target.write_text(json.dumps(stored, indent=1) + "\n")
    print(f"\nOn {stored['gpu']}:")
    for file, found in counts.items():
        print(f"{file:<28}" + "".join(f"{found[name]:>6} {name}" for name in OUTCOMES))
    for reason, number in reasons.items():
        print(f"{number} skipped: {reason}")
    for name in collect_ignore:
        print(f"{name} is left out: it needs Horovod")
    print(f"kept in {target}")


if __name__ == "__main__":
    main()
