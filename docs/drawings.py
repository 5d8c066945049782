"""Write the drawings of the manual, docs/_static/*.svg: ``python docs/drawings.py``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parent / "_static"
OURS, STOCK = "#dbe9ff", "#f0f0f0"
LINE = 20


@dataclass
class Drawing:
    """Collect boxes, arrows and words on a sheet; units are pixels of a page, origin at the top left."""

    title: str
    width: int
    height: int
    parts: list[str] = field(default_factory=list)

    def box(self, x: int, y: int, width: int, height: int, *lines: str, fill: str = OURS) -> None:
        """Draw a box around lines of text."""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}" stroke="#333" />'
        )
        self.words(x + width // 2, y + height // 2 - LINE * (len(lines) - 1) // 2 + 5, *lines)

    def block(self, x: int, y: int, width: int, height: int, fill: str) -> None:
        """Draw a plain rectangle."""
        self.parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{fill}" stroke="#333" />')

    def words(
        self, x: int, y: int, *lines: str, anchor: str = "middle", size: int = 15, weight: str = "normal"
    ) -> None:
        """Write lines below each other; ``anchor`` says where ``x`` is in them."""
        self.parts += [
            f'<text x="{x}" y="{y + LINE * number}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}">'
            f"{escape(line)}</text>"
            for number, line in enumerate(lines)
        ]

    def arrow(self, *points: tuple[int, int], dashed: bool = False) -> None:
        """Draw an arrow along points."""
        path = " ".join(f"{x},{y}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="#333" stroke-width="1.5"{dash} marker-end="url(#tip)" />'
        )

    def svg(self) -> str:
        """Return the sheet."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'font-family="sans-serif" fill="#111" role="img"><title>{escape(self.title)}</title>'
        )
        tip = (
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            'orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" fill="#333" /></marker></defs>'
        )
        return "\n".join([head, tip, *self.parts, "</svg>", ""])


def gradient_path() -> Drawing:
    """Draw one step: what travels through Horovod, and what travels beside it."""
    d = Drawing("One step: packed records travel beside Horovod's all-reduce of a small probe", 560, 430)
    d.box(180, 10, 200, 44, "gradient, float32", fill=STOCK)
    d.words(392, 37, "backward pass", anchor="start", size=13)
    d.arrow((280, 54), (280, 82))
    d.box(180, 84, 200, 44, "compress()")
    d.arrow((230, 128), (230, 146), (130, 146), (130, 168))
    d.arrow((330, 128), (330, 146), (430, 146), (430, 168))
    d.box(20, 170, 220, 64, "fusion group: norms and", "packed 2-8 bit codes")
    d.box(330, 170, 200, 64, "probe:", "a few numbers", fill=STOCK)
    d.arrow((130, 234), (130, 262))
    d.arrow((430, 234), (430, 262))
    d.box(20, 264, 220, 64, "exchange of records", "with all ranks")
    d.box(330, 264, 200, 64, "Horovod's", "all-reduce", fill=STOCK)
    d.arrow((130, 328), (130, 348), (230, 348), (230, 366))
    d.arrow((430, 328), (430, 348), (330, 348), (330, 366))
    d.box(160, 368, 240, 50, "decompress(): decode and add,", "the same bits on every rank")
    return d


def levels_path() -> Drawing:
    """Draw how levels are fitted and adopted."""
    d = Drawing("Levels: every rank counts, the leader fits, all ranks adopt the same table", 560, 330)
    for rank in range(3):
        x = 10 + 186 * rank
        d.box(x, 10, 168, 64, f"rank {rank}: counts", "of its coordinates", fill=STOCK)
        d.arrow((x + 84, 74), (x + 84, 92), (280, 92), (280, 116))
    d.box(130, 118, 300, 64, "leader (rank 0): policy fits levels", "to the sum of all counts")
    d.arrow((280, 182), (280, 210))
    d.words(292, 202, "broadcast", anchor="start", size=13)
    for rank in range(3):
        x = 10 + 186 * rank
        d.arrow((280, 210), (x + 84, 210), (x + 84, 236))
        d.box(x, 238, 168, 64, "checks the digest,", "adopts the table", fill=STOCK)
    d.words(280, 322, "at the end of a scheduled step, for the steps that follow", size=13)
    return d


def exchanges() -> Drawing:
    """Draw what each exchange sends."""
    d = Drawing("The three exchanges: all-gather, two-shot, hierarchical", 560, 470)
    d.words(10, 24, "allgather", anchor="start", weight="bold")
    d.words(110, 24, "every record goes to every rank; quantised once", anchor="start", size=14)
    d.box(10, 40, 130, 44, "record of r")
    d.arrow((140, 62), (208, 62))
    d.words(174, 54, "to all", size=13)
    d.box(210, 40, 340, 44, "every rank decodes and adds n records", fill=STOCK)

    d.words(10, 134, "two_shot", anchor="start", weight="bold")
    d.words(110, 134, "each rank owns a chunk; quantised twice", anchor="start", size=14)
    d.box(10, 150, 130, 64, "n chunk", "records of r")
    d.arrow((140, 182), (208, 182))
    d.words(174, 174, "1 to each", size=13)
    d.box(210, 150, 150, 64, "owner adds up,", "encodes the sum")
    d.arrow((360, 182), (418, 182))
    d.words(389, 174, "to all", size=13)
    d.box(420, 150, 130, 64, "every rank", "decodes n", fill=STOCK)

    d.words(10, 264, "hierarchical", anchor="start", weight="bold")
    d.words(130, 264, "exact inside a node, two shots between nodes", anchor="start", size=14)
    for node in range(2):
        x = 10 + 290 * node
        d.box(x, 282, 250, 130, fill="none")
        d.words(x + 125, 404, f"node {node}", size=13)
        for rank in range(2):
            d.box(x + 15 + 120 * rank, 300, 100, 64, "share of the", "node's sum", fill=STOCK)
        d.arrow((x + 115, 320), (x + 135, 320))
        d.arrow((x + 135, 344), (x + 115, 344))
    d.arrow((65, 364), (65, 436), (335, 436), (335, 366), dashed=True)
    d.arrow((195, 364), (195, 450), (475, 450), (475, 366), dashed=True)
    d.words(280, 466, "records, between ranks with the same share", size=13)
    return d


def widths() -> Drawing:
    """Draw how blocks share the bits of a record."""
    d = Drawing("Adaptive widths: blocks of much energy get many bits, blocks of zeros none", 560, 420)
    floor, octave, left, pitch, wide = 250, 13, 70, 80, 58
    level = 3
    # (octaves of energy above the smallest block that is drawn, bits): two octaves above the water are worth a bit.
    blocks = ((11, "4"), (7, "2"), (13, "5"), (None, "0"), (5, "1"), (1, "by chance"))
    d.words(10, 24, "energy of six blocks of 1024 coordinates, in octaves", anchor="start", weight="bold")
    for place, (energy, bits) in enumerate(blocks):
        x = left + pitch * place
        if energy is None:
            d.words(x + wide // 2, floor - 24, "only", "zeros", size=13)
        else:
            d.block(x, floor - octave * energy, wide, octave * energy, STOCK)
            if energy > level:
                d.block(x, floor - octave * energy, wide, octave * (energy - level), OURS)
        d.words(x + wide // 2, floor + 22, bits, size=14, weight="bold")
    water = floor - octave * level
    d.parts.append(f'<line x1="55" y1="{water}" x2="545" y2="{water}" stroke="#333" stroke-dasharray="5 4" />')
    d.words(50, water + 5, "water", anchor="end", size=13)
    d.words(50, floor + 22, "bits", anchor="end", size=13)
    d.words(
        280,
        floor + 48,
        "two octaves above the water are worth a bit; the water falls until the record is full",
        size=13,
    )
    d.words(10, 334, "the record", anchor="start", weight="bold")
    x = 10
    for words, length, fill in (("norms", 80, STOCK), ("widths", 80, STOCK), ("4 bits", 98, OURS), ("2", 49, OURS),
                                ("5 bits", 123, OURS), ("1", 25, OURS)):  # fmt: skip
        d.box(x, 350, length, 44, words, fill=fill)
        x += length
    d.box(x, 350, 550 - x, 44, "zeros", fill="none")
    d.words(280, 414, "every record has the same length, whatever the gradient", size=13)
    return d


DRAWINGS = {"gradient-path": gradient_path, "levels-path": levels_path, "exchanges": exchanges, "widths": widths}


def main() -> None:
    """Write every drawing."""
    for name, draw in DRAWINGS.items():
        (FOLDER / f"{name}.svg").write_text(draw().svg())


if __name__ == "__main__":
    main()
