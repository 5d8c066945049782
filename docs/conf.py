"""Sphinx settings; `make docs` builds the pages."""

from configparser import ConfigParser
from pathlib import Path

from alq_hvd.version import __version__

_setup = ConfigParser()
_setup.read(Path(__file__).parent.parent / "setup.cfg")

project = "alq_hvd"
author = _setup["metadata"]["author"]
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"alq_hvd {release}"
