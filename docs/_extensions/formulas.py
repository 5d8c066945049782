"""Formulas as MathML, made by docutils when the pages are built: browsers of today draw it without script or font."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.errors import ExtensionError


def mathml(tex: str, *, block: bool) -> str:
    """Return ``tex`` as a ``<math>`` element.

    Raises:
        ExtensionError: naming the formula that docutils cannot convert.
    """
    try:
        return str(latex2mathml.tex2mathml(tex.strip(), as_block=block))
    except MathError as error:
        raise ExtensionError(f"formula {tex!r}: {error}") from error


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(mathml(node.astext(), block=False))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="formula">{mathml(node.astext(), block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Make these the formulas of HTML pages."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
