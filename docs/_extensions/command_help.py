"""The directive ``command-help``: what a subcommand of ``alq-hvd`` prints for ``--help``, at the time of the build."""

from __future__ import annotations

import argparse
import importlib
import os
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective


class CommandHelp(SphinxDirective):
    """Show the help of the subcommand that the argument names."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the help as one literal block."""
        os.environ["COLUMNS"] = "80"  # argparse asks the terminal otherwise
        command = self.arguments[0]
        subparsers = argparse.ArgumentParser(prog="alq-hvd").add_subparsers()
        parser = importlib.import_module(f"alq_hvd.cli.{command}").add_parser(subparsers)
        text = parser.format_help()
        return [nodes.literal_block(text, text, language="text")]


def setup(app: Any) -> dict[str, bool]:
    """Make the directive known."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
