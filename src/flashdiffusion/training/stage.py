"""What the training loop asks of a stage; each stage is one file beside this one."""

from abc import ABC, abstractmethod
from pathlib import Path

from torch import Tensor, nn

from flashdiffusion.training.config import StageConfig
from flashdiffusion.training.draws import Draws


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

    @abstractmethod
    def forward(self, phase: str, x: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of images x (B, 3, H, W) in [0, 1], and parts of it for the log (detached scalars)."""

    @abstractmethod
    def grid(self, x: Tensor, draws: Draws) -> list[Tensor]:
        """Rows of a sample sheet, each (B, 3, H, W) in [0, 1]."""

    @abstractmethod
    def save(self, out: Path) -> None:
        """Write what was trained as a diffusers folder below `out`."""

    def finish(self, x: Tensor) -> None:
        """Last work before saving, given some training images."""
