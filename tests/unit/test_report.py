"""The page holds the numbers of the records, opens without a network, and says what is missing."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from alq_hvd import cli
from alq_hvd.report.figures import MOST_POINTS, thinned
from alq_hvd.run_record import RESULT_FILE, STEPS_FILE, read_run
from tests.support.run_records import SOFTWARE, result, write_run, write_sweep

VOID = {"meta", "br", "img", "link", "input", "hr"}
FETCHES = {"src", "href", "xlink:href", "data", "action", "poster", "srcset"}


class Page(HTMLParser):
    """Read a page: its tables by the id of the heading above, its figures, its texts; refuse what is unbalanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.figures: dict[str, int] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self.addresses: list[str] = []
        self.words: list[str] = []
        self._section = self._figure = ""
        self._cell: list[str] | None = None
        self.feed(text)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.addresses += [str(found[name]) for name in FETCHES & found.keys()]
        assert tag not in ("script", "link", "iframe", "object"), f"<{tag}> in a page that must stand alone"
        if tag in VOID:
            return
        self.open.append(tag)
        if tag == "h2":
            self._section = str(found["id"])
        elif tag == "figure":
            self._figure = str(found["id"])
            self.figures[self._figure] = 0
        elif tag == "path" and "figure" in self.open:
            self.figures[self._figure] += 1
        elif tag == "tr":
            self.tables.setdefault(self._section, []).append([])
        elif tag in ("td", "th"):
            self._cell = []

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()
        if tag in ("td", "th") and self._cell is not None:
            self.tables[self._section][-1].append("".join(self._cell))
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)
        if not {"style", "svg"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def row(self, section: str, *beginning: str) -> dict[str, str]:
        """Return the row that begins so, by its headings."""
        headings, *rows = self.tables[section]
        (found,) = [row for row in rows if row[: len(beginning)] == list(beginning)]
        return dict(zip(headings, found, strict=True))


def report(*arguments: object, status: int = 0, output: Path) -> Page:
    assert cli.main(["report", *map(str, arguments), "-o", str(output)]) == status
    return Page(output.read_text())


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def page(sweep: Path) -> Page:
    return report(sweep, output=sweep.parent / "page.html")


def test_it_opens_without_a_network(sweep: Path, page: Page) -> None:
    assert all(address.startswith("#") for address in page.addresses)
    text = (sweep.parent / "page.html").read_text()
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    # Names of XML vocabularies are no addresses: nothing is fetched from them.
    assert not re.findall(r"https?://(?!www\.w3\.org/(?:2000/svg|1999/xlink)\")", text)


def test_every_figure_is_there_and_has_something_in_it(page: Page) -> None:
    assert set(page.figures) == {
        "figure-scaling", "figure-traffic", "figure-split", "figure-loss", "figure-accuracy", "figure-levels-1",
    }  # fmt: skip
    assert all(paths > 20 for paths in page.figures.values()), page.figures


def test_colours_are_the_page_s_own(sweep: Path) -> None:
    text = (sweep.parent / "page.html").read_text()
    used = set(re.findall(r"var\(--([\w-]+)\)", text))
    assert {"ink", "grid", "method-0", "method-2", "part-compute", "part-adapt"} <= used
    defined = set(re.findall(r"--([\w-]+):", text))
    assert used <= defined


def test_the_numbers_are_those_of_the_records(sweep: Path, page: Page) -> None:
    base = read_run(sweep / "fp32-1").result
    for method, name in (("fp32", "fp32"), ("fp16", "fp16"), ("alq", "alq 3 bits")):
        for ranks in (1, 2, 4):
            own, plain = (read_run(sweep / f"{each}-{ranks}").result for each in (method, "fp32"))
            layout = f"{len(own.nodes)} × {ranks // len(own.nodes)}"
            row = page.row("scaling", name, layout, str(ranks))
            speed_up = own.examples_per_second / base.examples_per_second
            assert row["examples/s"] == f"{own.examples_per_second:,.0f}"
            assert row["speed-up"] == f"{speed_up:.2f}"
            assert row["efficiency"] == f"{100 * speed_up / ranks:.1f} %"
            assert row["× fp32 there"] == f"{own.examples_per_second / plain.examples_per_second:.2f}"
            row = page.row("traffic", name, layout, str(ranks))
            mark = "" if method == "alq" else " *"
            assert row["bytes sent per step and rank"] == f"{own.bytes_per_step:,.0f}{mark}"
            for part, seconds in own.seconds_per_step.items():
                stock = method != "alq" and part not in ("compute", "exchange")
                assert row[f"{part} ms"] == ("–" if stock else f"{1e3 * seconds:.2f}")
            row = page.row("accuracy", name, layout, str(ranks))
            assert row["accuracy"] == f"{100 * own.accuracy[-1][1]:.2f} %"
    assert "strong scaling" in page.text
    assert "Baseline: fp32 on 1 rank, 318 examples/s" in page.text


def test_levels_decisions_machines_and_software_are_told(sweep: Path, page: Page) -> None:
    run = read_run(sweep / "alq-4").result
    rows = [row for row in page.tables["levels"] if row[0] != "step"]
    assert len(rows) == 2 * 2 * 3  # 2 sizes that exchange anything, 2 shots, 3 adaptations
    told = {row[-1] for row in rows}
    for shot in run.shots:
        for event in shot:
            assert " ".join(f"{level:+.4g}" for level in event["levels_after"]) in told
    assert any(row[2] == "kept the old ones (the objective would rise)" for row in rows)
    row = page.row("break-even", "alq 3 bits", "2 × 2", "4")
    assert row["chosen"] == "two_shot"
    assert row["predicted for the communication of a step"] == "fp32 200 ms, fp16 100 ms, two_shot 40 ms"
    machines = [row for row in page.tables["machine"] if "EPYC 9654" in row]
    assert machines[-1] == ["n1, n2", "EPYC 9654", "96", "512 GiB", "2 × H100", "Linux-6.1"]
    for name, version in SOFTWARE.items():
        assert [name, version] in page.tables["machine"]
    assert ["commit of the program", result()["commit"]] in page.tables["machine"]
    seconds = read_run(sweep / "alq-4").result.document["train_seconds"]
    assert page.row("runs", str(sweep / "alq-4"))["node-hours"] == f"{2 * seconds / 3600:.3g}"


def test_a_complete_sweep_has_nothing_to_remark(page: Page) -> None:
    assert "Nothing: every method ran at every size" in page.text


def test_bad_runs_are_named_and_hide_no_other(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "other-model", model="VGG-16", parameters=138_000_000)
    write_run(tmp_path / "other-batch", batch_size=100, ranks=8)
    write_run(tmp_path / "damaged")
    (tmp_path / "damaged" / RESULT_FILE).write_text('{"format": ')
    (tmp_path / "empty").mkdir()
    places = [tmp_path / name for name in ("other-model", "other-batch", "damaged", "empty", "absent")]
    page = report(sweep, *places, status=1, output=tmp_path / "page.html")
    told = capsys.readouterr().err
    for expected in (
        "other-model: does not belong to the others: model 'VGG-16', others 'ResNet-50'; parameters 138000000, others",
        "other-batch: does not belong to the others: batch size of all ranks 100, others 256: pass --scaling",
        "damaged or unreadable",
        "empty: expected a run (result.json and steps.jsonl), found neither file",
        "absent: expected the folder of a run, got none of that name",
    ):
        assert expected in told
        assert expected in page.text
    assert told.count("left out") == len(places)
    assert page.row("scaling", "alq 3 bits", "2 × 2", "4")["runs"] == "1"


def test_without_any_usable_run_there_is_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(tmp_path), "-o", str(tmp_path / "page.html")]) == cli.ERROR_STATUS
    assert "no run to report on" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_weak_scaling_is_recognised_and_can_be_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for ranks in (1, 2, 4):
        write_run(tmp_path / str(ranks), ranks=ranks, batch_size=64 * ranks)
    page = report(tmp_path, output=tmp_path / "page.html")
    assert "weak scaling: every rank has the same 64 examples in a step" in page.text
    assert page.row("scaling", "fp32", "2 × 2", "4")["ranks"] == "4"
    page = report(tmp_path, "--scaling", "strong", status=1, output=tmp_path / "page.html")
    assert "batch size of all ranks 128, others 64" in page.text
    assert "a comparison of methods, not of sizes" in page.text


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "fp32", 2, nodes=None, software=None, commit=None, started=None, train_seconds=None)
    write_run(tmp_path / "b", "alq", 4, steps=50, break_even=None, software={**SOFTWARE, "torch": "2.12.0"})
    (tmp_path / "b" / "steps.jsonl").write_text("")
    page = report(tmp_path, output=tmp_path / "page.html")
    for remark in (
        "no data: fp32 at 4 ranks (2 × 2): no run",
        "no data: alq 3 bits at 2 ranks (not recorded): no run",
        f"not recorded: hosts, so neither nodes nor node-hours are known: {tmp_path / 'a'}",
        f"not recorded: software versions: {tmp_path / 'a'}",
        "the runs do not share one version of torch: 2.12.0, 2.13.0",
        "runs have different numbers of steps (40, 50): do not compare their accuracy",
        "no run measured whether compression pays",
    ):
        assert remark in page.text
    assert page.row("scaling", "alq 3 bits")["× fp32 there"] == "–"
    assert page.row("accuracy", "alq 3 bits")["last loss"] == "not recorded"
    assert page.row("runs", str(tmp_path / "a"))["node-hours"] == "not recorded"


def test_repetitions_are_averaged_and_other_options_are_another_method(tmp_path: Path) -> None:
    options = {"bucket_size": 1024, "exchange": "two_shot"}
    for seed in (0, 1):
        write_run(tmp_path / f"seed{seed}", "alq", 4, seed=seed, options={**options, "seed": seed}, batch_size=256)
    write_run(tmp_path / "wide", "alq", 4, options={**options, "bucket_size": 8192}, bytes_per_step=1000)
    page = report(tmp_path, "--baseline", "alq 3 bits, bucket_size=8192", output=tmp_path / "page.html")
    assert page.row("scaling", "alq 3 bits, bucket_size=1024")["runs"] == "2"
    assert page.row("accuracy", "alq 3 bits, bucket_size=1024")["seeds"] == "0, 1"
    assert page.row("traffic", "alq 3 bits, bucket_size=8192")["bytes sent per step and rank"] == "1,000"
    assert "Baseline: alq 3 bits, bucket_size=8192 on 4 ranks" in page.text


def test_an_unknown_baseline_lists_the_known_ones(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(sweep), "--baseline", "sgd"]) == cli.ERROR_STATUS
    assert "--baseline: expected one of fp32, fp16, alq 3 bits, got 'sgd'" in capsys.readouterr().err


def test_names_in_records_can_not_break_the_page(tmp_path: Path) -> None:
    write_run(tmp_path / "<b>&amp;", model="<script>alert(1)</script>", dataset='"><img src=x>')
    page = report(tmp_path, output=tmp_path / "page.html")
    assert "<script>alert(1)</script>" in page.text
    assert all(address.startswith("#") for address in page.addresses)


def test_one_run_alone_makes_a_page(tmp_path: Path) -> None:
    page = report(write_run(tmp_path / "run", "alq", 1), output=tmp_path / "new" / "page.html")
    assert "No levels were adapted in these runs." in page.text
    assert page.row("scaling", "alq 3 bits", "1 × 1", "1")["efficiency"] == "100.0 %"


def test_a_long_run_makes_no_large_page(tmp_path: Path) -> None:
    short = write_run(tmp_path / "short")
    long = write_run(tmp_path / "long", steps=100_000)
    with (long / STEPS_FILE).open("a") as lines:
        lines.writelines(
            f'{{"kind": "step", "step": {step}, "loss": {math.sin(step)}}}\n' for step in range(41, 100_001)
        )
    report(short, output=tmp_path / "short.html")
    page = report(long, output=tmp_path / "long.html")
    assert (tmp_path / "long.html").stat().st_size < (tmp_path / "short.html").stat().st_size + 50_000
    assert page.row("accuracy", "fp32")["last loss"] == f"{math.sin(100_000):.4g}"


def test_thinning_keeps_the_course_of_a_curve() -> None:
    curve = [(float(step), 2.0 * step) for step in range(1, 1001)]
    thin = thinned(curve)
    assert MOST_POINTS / 2 < len(thin) <= MOST_POINTS
    assert all(value == pytest.approx(2 * step) for step, value in thin)
    assert thin[0][0] < 4 and thin[-1][0] > 996
    assert thinned(curve[:MOST_POINTS]) == curve[:MOST_POINTS]


def test_an_output_that_can_not_be_written_is_named(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(sweep), "-o", "/proc/no/page.html"]) == cli.ERROR_STATUS
    assert "output: cannot write /proc/no/page.html" in capsys.readouterr().err


def test_runs_of_one_size_are_shown_as_bars_and_not_as_single_points(tmp_path: Path) -> None:
    for method in ("fp32", "alq"):
        write_run(tmp_path / method, method, 4)
    page = tmp_path / "page.html"
    assert cli.main(["report", str(tmp_path), "-o", str(page)]) == 0
    text = page.read_text()
    assert "Throughput, and speed-up over the baseline." in text and "over the number of ranks" not in text
    traffic = text.split('id="figure-traffic"')[1].split("</figure>")[0]
    assert [traffic.count(f"fill: var(--method-{number})") for number in range(2)] == [2, 2], "a bar in each panel"
    assert "stroke: var(--method" not in traffic, "a curve"
