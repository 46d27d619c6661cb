"""The stage of the light decoder: an optional one, which distils the trained autoencoder's decoder."""

from pathlib import Path

import torch
from torch import Tensor, nn

from flashdiffusion.priors import DiffusersAutoencoder, LightDecoder
from flashdiffusion.training.config import LightDecoderConfig
from flashdiffusion.training.draws import Draws
from flashdiffusion.training.stage import Stage


class LightDecoderStage(Stage):
    """L = mean (L(z) - D0(z))² at z = E0(x) + s ε, s drawn per picture: ẑ0 of a sampling step is not clean.

    E0 and D0 are frozen. The target is what D0 makes of the same z, not x: L stands in for D0, faults included.
    """

    name = "light-decoder"

    def __init__(self, config: LightDecoderConfig, autoencoder: DiffusersAutoencoder) -> None:
        super().__init__()
        self.config: LightDecoderConfig = config
        self.model = LightDecoder(autoencoder.channels, autoencoder.factor, **config.model)
        self.autoencoder = autoencoder.requires_grad_(False).eval()

    def phases(self, progress: float) -> list[str]:
        return ["light-decoder"]

    def trainable(self) -> dict[str, nn.Module]:
        return {"light-decoder": self.model}

    def forward(self, phase: str, x: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        z, target = self._pairs(x, draws)
        square = (self.model(z).float() - target).square()
        psnr = -10 * square.detach().mean(dim=(1, 2, 3)).clamp(min=1e-10).log10().mean()
        return square.mean(), {"psnr": psnr}

    def grid(self, x: Tensor, draws: Draws) -> list[Tensor]:
        z, target = self._pairs(x, draws)
        return [x, target, self.model(z)]

    def save(self, out: Path) -> None:
        self.model.save_pretrained(out / "light_decoder")

    @torch.no_grad()
    def _pairs(self, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Perturbed latents of pictures, and what D0 makes of them."""
        z = self.autoencoder.encode(x).float()
        low, high = self.config.noise_std
        std = low + (high - low) * draws.uniform()
        z = z + std.view(-1, 1, 1, 1) * draws.normal(*z.shape[1:])
        return z, self.autoencoder.decode(z).float()
