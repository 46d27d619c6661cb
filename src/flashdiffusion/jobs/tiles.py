"""Pictures that are restored in tiles: checked, and compared with what was measured, a tile at a time."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flashdiffusion.engine.tiling import Cuttable, Tiling
from flashdiffusion.physics import Window
from flashdiffusion.solvers import Problem


@dataclass(frozen=True)
class InTiles:
    """Measurements of one picture as metrics take them (`metrics.Measured`), of which memory holds a tile at a time."""

    problem: Problem
    tiling: Tiling

    @property
    def y(self) -> Tensor:
        """The measurements, (1, ...)."""
        return self.problem.y

    @property
    def residual_variance(self) -> Tensor:
        """The mean squared residual at the true image, (1,)."""
        return self.problem.residual_variance

    def residual(self, x: Tensor) -> Tensor:
        """Compare A(x) with y; each tile where its neighbours are farther than the halo."""
        found = torch.empty_like(self.y)
        side = self._physics.pixel_size
        for place in self.tiling.places:
            window, core = self.tiling.window(*place), self.tiling.core(*place, side=side)
            inner = Window(core.top - window.top, core.left - window.left, *core.size).in_units(side)
            core.in_units(side).of(found).copy_(inner.of(self.part(window).residual(window.of(x))))
        return found

    def part(self, window: Window) -> Problem:
        """The problem of a tile."""
        y = window.in_units(self._physics.pixel_size).of(self.y)
        return Problem(y, self._physics.window(window))

    @property
    def first(self) -> Problem:
        """The problem of the first tile."""
        return self.part(self.tiling.window(*self.tiling.places[0]))

    @property
    def _physics(self) -> Cuttable:
        assert isinstance(self.problem.physics, Cuttable)
        return self.problem.physics
