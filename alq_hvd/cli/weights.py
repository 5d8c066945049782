"""``alq-hvd weights MODEL.pt``: what every scheme of quantised weights does to each layer of a saved model."""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from alq_hvd import backends
from alq_hvd.errors import ConfigurationError

if TYPE_CHECKING:
    from alq_hvd.weights.measurement import Measured

Tensor: TypeAlias = Any
NESTED = ("state_dict", "model", "model_state_dict")
"""Where checkpoints commonly keep the state of the model."""
_NOTE = """\
error: |w - q|^2 / |w|^2. scale: the first where there are several. dorefa has no scale: its values go from -1 to 1,
and a norm after the layer has to make up for that, so that error says nothing by itself."""
_HOW = "write one with torch.save(model.state_dict(), path)"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add ``weights`` to the command line and return its parser."""
    parser = subparsers.add_parser(
        "weights",
        help="quantise the weights of a saved model with every scheme, and compare them layer by layer",
        description="Quantise every weight of two or more dimensions in a saved state_dict, each counting the same "
        "(no curvature), and tell error, scale, values and bytes.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL.pt", help="a state_dict, read with weights_only=True")
    parser.add_argument("--scheme", default="laq", help="which one to mark and to draw (default: %(default)s)")
    parser.add_argument("--bits", type=int, help="width of a code (default: the scheme's own, 3 for laq); the other "
                        "schemes take theirs nearest to it")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw weights and values of the largest layers")
    return parser


def run(args: argparse.Namespace) -> int:
    """Measure, print, draw; return 0.

    Raises:
        ConfigurationError: when the file or an option cannot be used.
        UnsupportedTensor, WeightsError: when a weight cannot be quantised.
        BackendUnavailable: without torch, or for ``--plot`` without matplotlib.
    """
    from alq_hvd.weights import schemes
    from alq_hvd.weights.measurement import measure

    chosen = schemes.scheme(args.scheme, args.bits)
    weights = read_weights(args.model)
    every = [chosen]
    for name in schemes.NAMES:
        low, high = schemes.bits_of(name)
        if name != chosen.name:
            every.append(schemes.scheme(name, min(max(chosen.bits, low), high)))
    rows = [measure(name, weight, scheme) for name, weight in weights.items() for scheme in every]
    if args.plot is not None:
        from alq_hvd.cli.weights_plot import save_plot

        save_plot(args.plot, weights, [row for row in rows if row.scheme == chosen.name])
    if args.json:
        document = {"model": str(args.model), "scheme": chosen.name, "bits": chosen.bits}
        print(json.dumps({**document, "layers": [asdict(row) for row in rows]}, allow_nan=False))
    else:
        print(as_text(args.model, rows, chosen.name, {name: schemes.description(name) for name in schemes.NAMES}))
        if args.plot is not None:
            print(f"\nplot: {args.plot}")
    return 0


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights of two or more dimensions in a saved ``state_dict``, tied ones once.

    Raises:
        ConfigurationError: when the file is missing, is something else, or has no such weight.
    """
    torch = backends.torch()
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: no such file") from None
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ConfigurationError(f"{path}: expected a state_dict ({reason}); {_HOW}") from None
    for key in NESTED:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise ConfigurationError(f"{path}: expected a state_dict, got {type(loaded).__name__}; {_HOW}")
    found: dict[str, Tensor] = {}
    seen: set[tuple[int, tuple[int, ...]]] = set()
    for name, value in loaded.items():
        if torch.is_tensor(value) and value.dim() > 1 and value.is_floating_point():
            place = (value.data_ptr() if value.layout == torch.strided else id(value), tuple(value.shape))
            if place not in seen:
                found[str(name)] = value
            seen.add(place)
    if not found:
        raise ConfigurationError(f"{path}: expected floats of two or more dimensions, found none; {_HOW}")
    return found


def as_text(path: Path, rows: Sequence[Measured], chosen: str, descriptions: Mapping[str, str]) -> str:
    """Return the table, and the sums over all layers; the chosen scheme is marked."""
    names = list(dict.fromkeys(row.name for row in rows))
    elements = sum(next(row for row in rows if row.name == name).elements for name in names)
    width = max(8, *(len(name) for name in names))
    lines = [
        f"{path}: {len(names)} weights of two or more dimensions, {elements:,} numbers, {4 * elements:,} bytes as "
        "float32",
        "",
        f"{'layer':<{width}} {'scheme':<8}{'bits':>5}{'error':>11}{'scale':>11}{'values':>8}{'used':>7}{'bytes':>13}",
    ]
    for name in names:
        own = [row for row in rows if row.name == name]
        for place, row in enumerate(sorted(own, key=lambda row: row.relative_error)):
            first = name if place == 0 else ""
            lines.append(f"{first:<{width}} {_columns(row)}" + (" <" if row.scheme == chosen else ""))
    lines += ["", f"{'all':<{width}} {'scheme':<8}{'bits':>5}{'mean error':>11}{'':>26}{'bytes':>13}{'of float32':>12}"]
    for scheme in dict.fromkeys(row.scheme for row in rows):
        own = [row for row in rows if row.scheme == scheme]
        mean = sum(row.relative_error * row.elements for row in own) / elements
        size = sum(row.code_bytes for row in own)
        lines.append(
            f"{'':<{width}} {scheme:<8}{own[0].bits:>5}{mean:>11.4g}{'':>26}{size:>13,}{size / (4 * elements):>12.1%}"
            f"  {descriptions[scheme]}" + (" <" if scheme == chosen else "")
        )
    lines.append(_NOTE)
    return "\n".join(lines)


def _columns(row: Measured) -> str:
    scale = f"{row.scales[0]:.4g}" if row.scales else "-"
    return (
        f"{row.scheme:<8}{row.bits:>5}{row.relative_error:>11.4g}{scale:>11}{len(row.values):>8}{row.used:>7}"
        f"{row.code_bytes:>13,}"
    )
