"""The stage of the distilled decoder: an optional one, which distils the trained autoencoder's decoder."""

from pathlib import Path

import torch
from torch import Tensor, nn

from flashdiffusion.priors import DiffusersAutoencoder, DistilledDecoder
from flashdiffusion.training.config import DistilledDecoderConfig
from flashdiffusion.training.draws import Draws
from flashdiffusion.training.stage import Stage


class DistilledDecoderStage(Stage):
    """L = mean (L(z) - D0(z))² at z = E0(x) + s ε, s drawn per image: ẑ0 of a sampling step is not clean.

    E0 and D0 are frozen. The target is what D0 makes of the same z, not x: L stands in for D0, faults included.
    """

    name = "distilled-decoder"

    def __init__(self, config: DistilledDecoderConfig, autoencoder: DiffusersAutoencoder) -> None:
        super().__init__()
        self.config: DistilledDecoderConfig = config
        self.model = DistilledDecoder(autoencoder.channels, autoencoder.factor, **config.model)
        self.autoencoder = autoencoder.requires_grad_(False).eval()

    def phases(self, progress: float) -> list[str]:
        return ["distilled-decoder"]

    def trainable(self) -> dict[str, nn.Module]:
        return {"distilled-decoder": self.model}

    def forward(self, phase: str, x: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        z, target = self._pairs(x, draws)
        square = (self.model(z).float() - target).square()
        psnr = -10 * square.detach().mean(dim=(1, 2, 3)).clamp(min=1e-10).log10().mean()
        return square.mean(), {"psnr": psnr}

    def grid(self, x: Tensor, draws: Draws) -> list[Tensor]:
        z, target = self._pairs(x, draws)
        return [x, target, self.model(z)]

    def save(self, out: Path) -> None:
        self.model.save_pretrained(out / "distilled_decoder")

    @torch.no_grad()
    def _pairs(self, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Perturbed latents of images, and what D0 makes of them."""
        z = self.autoencoder.encode(x).float()
        low, high = self.config.noise_std
        std = low + (high - low) * draws.uniform()
        z = z + std.view(-1, 1, 1, 1) * draws.normal(*z.shape[1:])
        return z, self.autoencoder.decode(z).float()
