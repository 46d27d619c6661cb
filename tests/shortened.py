"""Restorations cut short, for tests that ask whether something runs and not what comes out."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from flashdiffusion.engine import cost
from flashdiffusion.schedule import NoiseSchedule
from flashdiffusion.solvers import consistency


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps where there would be many, one iteration of each fit, and nobody counts the arithmetic."""
    whole, geometric, fit = NoiseSchedule.grid, NoiseSchedule.geometric, consistency.least_squares
    monkeypatch.setattr(NoiseSchedule, "grid", lambda schedule, steps=None: whole(schedule, 2))
    monkeypatch.setattr(NoiseSchedule, "geometric", lambda schedule, steps, lowest: geometric(schedule, 2, lowest))
    monkeypatch.setattr(
        consistency, "least_squares", lambda A, At, y, iterations, *rest, **more: fit(A, At, y, 1, *rest, **more)
    )
    monkeypatch.setattr(cost, "FlopCounter", lambda: nullcontext(SimpleNamespace(gflop=1.0)))
