"""What the training loop asks of a stage; each stage is one file beside this one."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from flashdiffusion.data import ImageDataset
from flashdiffusion.training.config import StageConfig
from flashdiffusion.training.draws import Draws


class Examples(Protocol):
    """What a stage learns from, by number."""

    def __len__(self) -> int: ...

    def rows(self, indices: Sequence[int]) -> Tensor | tuple[Tensor, ...]:
        """Give a row for each index, on the CPU; index i is of example i % n, of n, the i // n-th time."""
        ...


class Stage(nn.Module, ABC):
    """One training stage. It is a module whose forward is the loss, so that accelerate can wrap it whole.

    Phases are the losses minimised in turn within a step, each over its own parameters; all but the
    adversarial autoencoder have one.
    """

    name: str
    config: StageConfig

    @abstractmethod
    def phases(self, progress: float) -> list[str]:
        """Phases of a step at `progress` in [0, 1] of the time box."""

    @abstractmethod
    def trainable(self) -> dict[str, nn.Module]:
        """The module that each phase trains; all that can ever appear."""

    def examples(self, data: ImageDataset, out: Path) -> Examples:
        """What the stage learns from, an item for each image of `data`; the images, if nothing else is said.

        Args:
            out: folder of the run, to keep what is made of the images.
        """
        return data

    def mirrored(self, batch: Any, flip: Tensor) -> Any:
        """Give the inputs of `forward` for rows of its examples, mirrored where `flip` (B,) says so."""
        x: Tensor = batch.float() / 255
        return torch.where(flip.view(-1, 1, 1, 1), x.flip(-1), x)

    @abstractmethod
    def forward(self, phase: str, x: Any, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of what `mirrored` gives, and parts of it for the log (detached scalars).

        x: images (B, 3, H, W) in [0, 1], or what the stage's own `mirrored` makes of its examples.
        """

    @abstractmethod
    def grid(self, x: Tensor, draws: Draws) -> list[Tensor]:
        """Rows of a sample sheet, each (B, 3, H, W) in [0, 1]."""

    @abstractmethod
    def save(self, out: Path) -> None:
        """Write what was trained as a diffusers folder below `out`."""

    def finish(self, x: Tensor) -> None:
        """Last work before saving, given some training images."""
