"""Sphinx settings; `make docs` builds the pages, which need no network to be read."""

import sys
from configparser import ConfigParser
from pathlib import Path

from alq_hvd.version import __version__

_here = Path(__file__).parent
_setup = ConfigParser()
_setup.read(_here.parent / "setup.cfg")
sys.path.insert(0, str(_here / "_extensions"))

project = "alq_hvd"
author = _setup["metadata"]["author"]
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "formulas",  # MathML at build time: no script, no font, no LaTeX
    "command_help",
]
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"alq_hvd {release}"
html_static_path = ["_static"]
html_css_files = ["manual.css"]
html_use_index = False
html_copy_source = False
html_show_sourcelink = False
pygments_style = "friendly"
pygments_dark_style = "monokai"


def _escape_bars(app, what, name, thing, options, lines):  # type: ignore[no-untyped-def]
    """Leave |x| of a docstring a formula: to reStructuredText it would be a substitution."""
    for number, line in enumerate(lines):
        pieces = line.split("``")
        pieces[::2] = [piece.replace("|", r"\|") for piece in pieces[::2]]
        lines[number] = "``".join(pieces)


def setup(app):  # type: ignore[no-untyped-def]
    """Register what is too small for an extension."""
    app.connect("autodoc-process-docstring", _escape_bars)
