"""Degradations of a training step, drawn afresh for every image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flashdiffusion.physics import BatchedPhysics, Mixed, get_task
from flashdiffusion.physics.base import Size
from flashdiffusion.physics.noise import entry_std
from flashdiffusion.physics.tasks import Mixture
from flashdiffusion.severity import Conditions
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
        return self.seen(x, draws).filled

    def physics(self, size: Size, draws: Draws) -> BatchedPhysics:
        """Draw operators for images of `size` (H, W): for the global batch, of which this process keeps its rows."""
        low, high = self.noise_std
        unit = torch.rand(draws.total, generator=draws.generator, device=draws.device)
        std = low + (high - low) * unit.double().square().cpu()
        physics = self.task.draw(draws.total, size, draws.generator, std)
        return physics.take(torch.arange(draws.total)[draws.rows])

    def seen(self, x: Tensor, draws: Draws) -> "Seen":
        """x (B, 3, H, W) in [0, 1] -> what a severity encoder is shown of its measurements."""
        physics = self.physics((x.shape[2], x.shape[3]), draws)
        kinds = physics.parts if isinstance(physics, Mixed) else [(torch.arange(len(x)), physics)]
        noise = draws.normal(*x.shape[1:])
        with torch.autocast(x.device.type, enabled=False):  # the degradation itself is not the network's
            parts = [Seen.of(_measured(part, x, rows, noise, draws)) for rows, part in kinds]
        return Seen.join([rows for rows, _ in kinds], parts)


@dataclass(frozen=True)
class Seen:
    """Measurements as images (B, 3, H, W), the same with holes filled, and what is known of each."""

    image: Tensor
    filled: Tensor
    conditions: Conditions

    @classmethod
    def of(cls, problem: Problem) -> "Seen":
        return cls(problem.image, problem.filled, problem.conditions)

    @classmethod
    def join(cls, rows: Sequence[Tensor], parts: Sequence["Seen"]) -> "Seen":
        """Put the rows of parts, int64 indices, in their places."""
        order = torch.cat(list(rows)).argsort()
        image, filled = (torch.cat([getattr(part, name) for part in parts])[order] for name in ("image", "filled"))
        return cls(image, filled, Conditions.join([part.conditions for part in parts], order))


def _measured(physics: BatchedPhysics, x: Tensor, rows: Tensor, noise: Tensor, draws: Draws) -> Problem:
    """Measure some rows of images with noise of their size; of it, what measurements that are smaller need."""
    y = physics.A(x[rows])
    if y.shape[2] > x.shape[2] or y.shape[3] > x.shape[3]:
        noise = draws.normal(*y.shape[1:])
    # Counts of photons are drawn as normal numbers, of which each image takes as many whatever its light.
    std = entry_std(y, physics.noise_std, physics.gain)
    return Problem(y + std * noise[rows][..., : y.shape[2], : y.shape[3]], physics)
