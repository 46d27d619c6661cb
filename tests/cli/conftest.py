"""Running a command in this process."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from flashdiffusion.cli import main


@dataclass(frozen=True)
class Run:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def flash(monkeypatch, capsys) -> Callable[..., Run]:
    """`flash("restore", path, "--out", folder)` runs the command line."""

    def run(*arguments: object) -> Run:
        monkeypatch.setattr(sys, "argv", ["flashdiffusion", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return Run(int(end.value.code or 0), captured.out, captured.err)

    return run
