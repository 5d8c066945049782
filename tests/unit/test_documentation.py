"""The documentation builds without a warning, its examples give what they show, and its pages need no network."""

from __future__ import annotations

import doctest
import re
import runpy
import subprocess
import sys
from configparser import ConfigParser
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytestmark = pytest.mark.timeout(600)  # a build takes seconds, on a busy machine minutes
ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
LOADED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("video", "src")}


class Page(HTMLParser):
    """Collect the anchors, the links and what a browser loads of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.formulas = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.anchors.add(given.get("id", ""))
        self.formulas += tag == "math"
        self.links += [given["href"]] if tag == "a" and "href" in given else []
        self.loaded += [value for name, value in given.items() if (tag, name) in LOADED]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    folder = tmp_path_factory.mktemp("pages")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", str(DOCS), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=550, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return {page: Page(page.read_text()) for page in folder.rglob("*.html")}


def test_every_link_leads_to_a_page_and_a_place_on_it(built: dict[Path, Page]) -> None:
    checked = 0
    for path, page in built.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.name}: {link}"
            if parts.fragment and target in built:
                assert unquote(parts.fragment) in built[target].anchors, f"{path.name}: {link}"
            checked += 1
    assert checked > 1000


def test_no_page_loads_anything_from_a_network(built: dict[Path, Page]) -> None:
    folder = min(built, key=lambda path: len(path.parts)).parent
    assert all(page.loaded for path, page in built.items() if path.name == "index.html")
    for path, page in built.items():
        for address in page.loaded:
            parts = urlsplit(address)
            assert not parts.scheme and not parts.netloc, f"{path.name} loads {address}"
            assert (path.parent / unquote(parts.path)).exists(), f"{path.name} loads {address}, which is not there"
    for style in folder.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//|@import", style.read_text()), style.name


def test_formulas_are_drawn_by_the_browser_itself(built: dict[Path, Page]) -> None:
    methods = next(page for path, page in built.items() if path.parts[-2:] == ("explanation", "methods.html"))
    assert methods.formulas > 30
    for path in built:
        text = re.sub(r"<(pre|code)\b.*?</\1>", "", path.read_text(), flags=re.DOTALL)
        assert not re.search(r"\\(frac|sum|int|Psi|pm)\b|\$\$", text), f"{path.name} shows raw TeX"


def test_the_drawings_are_those_of_the_program() -> None:
    drawn = {
        f"{name}.svg": draw().svg() for name, draw in runpy.run_path(str(DOCS / "drawings.py"))["DRAWINGS"].items()
    }
    stored = {path.name: path.read_text() for path in (DOCS / "_static").glob("*.svg")}
    assert stored == drawn, "run docs/drawings.py"


def test_the_table_of_versions_is_that_of_the_setup() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    stated = "\n".join([setup["options"]["install_requires"], *extras.values()]).splitlines()
    ranges = dict(re.findall(r"^([\w.-]+)(\S+)", line)[0] for line in stated if line)
    pythons = re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"])
    assert setup["options"]["python_requires"] == f">={pythons[0]}"
    rows = dict(
        re.findall(r"^\| ([^|]+) \| ([^|]+) \|", (DOCS / "reference" / "compatibility.md").read_text(), re.MULTILINE)
    )
    assert rows["Python"] == f"{pythons[0]} to {pythons[-1]}"
    packages = {"PyTorch": "torch", "Horovod": "horovod", "mpi4py": "mpi4py", "NumPy": "numpy", "SciPy": "scipy"}
    for row, package in {**packages, "cupy, for CUDA 12 and 13": "cupy-cuda12x"}.items():
        assert rows[row] == f"`{ranges[package]}`", row
    assert ranges["cupy-cuda12x"] == ranges["cupy-cuda13x"]


@pytest.mark.parametrize("page", [page for page in PAGES if ">>> " in page.read_text()], ids=lambda page: page.stem)
def test_examples_give_what_they_show(page: Path) -> None:
    examples = "\n".join(re.findall(r"^```pycon\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL))
    assert examples.count(">>> ") == page.read_text().count(">>> "), f"{page.name}: an example outside a pycon block"
    test = doctest.DocTestParser().get_doctest(examples, {}, page.name, str(page), 0)
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert not said, "".join(said)
