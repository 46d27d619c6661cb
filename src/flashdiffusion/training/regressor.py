"""The stage of the supervised baseline: a regressor from measurement to image. It needs no other stage."""

from pathlib import Path

import torch
from torch import Tensor, nn

from flashdiffusion.regression import Regressor
from flashdiffusion.training.config import RegressorConfig
from flashdiffusion.training.degrade import Degradation
from flashdiffusion.training.draws import Draws
from flashdiffusion.training.stage import Stage


class RegressorStage(Stage):
    """L = mean √((R(y) - x)² + ε²), Charbonnier's smooth L1, degradations drawn afresh for every image."""

    name = "regressor"

    def __init__(self, config: RegressorConfig) -> None:
        super().__init__()
        self.config: RegressorConfig = config
        self.degrade = Degradation(config.task, config.noise_std)
        self.model = Regressor(**config.model)

    def phases(self, progress: float) -> list[str]:
        return ["regressor"]

    def trainable(self) -> dict[str, nn.Module]:
        return {"regressor": self.model}

    def forward(self, phase: str, x: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        error = self.model(self.degrade(x, draws)).float() - x
        square = error.square()
        psnr = -10 * square.detach().mean(dim=(1, 2, 3)).clamp(min=1e-10).log10().mean()
        return torch.sqrt(square + self.config.epsilon**2).mean(), {"psnr": psnr}

    def grid(self, x: Tensor, draws: Draws) -> list[Tensor]:
        y = self.degrade(x, draws)
        return [x, y, self.model(y)]

    def save(self, out: Path) -> None:
        self.model.save_pretrained(out / "regressor")
