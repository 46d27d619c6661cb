"""The command line: `flashdiffusion COMMAND`; one file per command, heavy imports inside them."""

from flashdiffusion.cli.app import main

__all__ = ["main"]
