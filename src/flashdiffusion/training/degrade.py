"""Degradations of a training step, drawn afresh for every image."""

import torch
from torch import Tensor

from flashdiffusion.physics import get_task
from flashdiffusion.physics.noise import entry_std
from flashdiffusion.physics.tasks import Mixture
from flashdiffusion.solvers import Problem
from flashdiffusion.training.draws import Draws


class Degradation:
    """Images -> measurements, of a task (or mixture of tasks) and noise levels drawn per image.

    Args:
        task: name of the task.
        noise_std: range of σ_y on the [0, 1] scale. It is drawn as low + (high - low) u², u ~ U[0, 1]: faint noise,
            the usual one, more often.

    Raises:
        InputError: unknown task.
    """

    def __init__(self, task: str, noise_std: tuple[float, float]) -> None:
        self.task = get_task(task)
        self.noise_std = noise_std

    @property
    def kinds(self) -> list[str]:
        """Names of the operators."""
        tasks = self.task.tasks if isinstance(self.task, Mixture) else [self.task]
        return list(dict.fromkeys(task.physics for task in tasks))

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        """x (B, 3, H, W) in [0, 1] -> y as an image of the same size, as networks see it."""
        return self.problem(x, draws).filled

    def problem(self, x: Tensor, draws: Draws) -> Problem:
        """x (B, 3, H, W) in [0, 1] -> measurements and their physics."""
        # Drawn for the global batch, of which this process keeps its rows.
        low, high = self.noise_std
        unit = torch.rand(draws.total, generator=draws.generator, device=draws.device)
        physics = self.task.draw(
            draws.total, (x.shape[2], x.shape[3]), draws.generator, low + (high - low) * unit.double().square().cpu()
        )
        physics = physics.take(torch.arange(draws.total)[draws.rows])
        with torch.autocast(x.device.type, enabled=False):  # the degradation itself is not the network's
            y = physics.A(x)
            noise = draws.normal(*y.shape[1:])
            # Counts of photons are drawn as normal numbers, of which each image takes as many whatever its light.
            return Problem(y + entry_std(y, physics.noise_std, physics.gain) * noise, physics)
