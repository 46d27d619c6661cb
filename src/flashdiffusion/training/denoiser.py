"""Stage 2: the noise predictor on the autoencoder's latents, or on pixels."""

from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from flashdiffusion.data import ImageDataset
from flashdiffusion.errors import InputError, brief
from flashdiffusion.priors import Autoencoder, DiffusersAutoencoder, LatentPrior
from flashdiffusion.training.config import DenoiserConfig
from flashdiffusion.training.draws import Draws
from flashdiffusion.training.latents import Latents, digest
from flashdiffusion.training.stage import Examples, Stage


class DenoiserStage(Stage):
    """‖ε - ε_θ(a_i z0 + b_i ε, i)‖² (Ho et al. 2020), i in 1..N drawn as `DenoiserConfig` says; E0 is frozen."""

    name = "denoiser"

    def __init__(self, config: DenoiserConfig, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.config: DenoiserConfig = config
        self.prior = LatentPrior(autoencoder, UNet2DModel(**config.model), DDPMScheduler(**config.schedule))
        self.prior.denoiser.requires_grad_(True).train()

    def start_from(self, other: LatentPrior) -> None:
        """Copy the weights of a trained denoiser of the same latents and schedule.

        Raises:
            InputError: a denoiser of another shape, or another schedule or prediction type.
        """
        ours, theirs = self.prior, other
        if ours.prediction != theirs.prediction or not torch.equal(ours.abar, theirs.abar):
            raise InputError("cannot start from this denoiser: it was trained on another noise schedule or prediction")
        try:
            ours.denoiser.load_state_dict(theirs.denoiser.state_dict())
        except RuntimeError as error:
            raise InputError(f"cannot start from this denoiser: {brief(error)}") from error

    def phases(self, progress: float) -> list[str]:
        return ["denoiser"]

    def trainable(self) -> dict[str, nn.Module]:
        return {"denoiser": self.prior.denoiser}

    def examples(self, data: ImageDataset, out: Path) -> Examples:
        if self.encodes_at_once:
            return data
        shape = self.prior.latent_shape((data.side, data.side))
        return Latents(data, self._encode, shape, digest(self.prior.autoencoder), out)

    def mirrored(self, batch: Tensor, flip: Tensor) -> Tensor:
        if self.encodes_at_once:
            return self._encode(super().mirrored(batch, flip))
        return torch.where(flip.view(-1, 1, 1, 1), batch[:, 1], batch[:, 0]).float()

    @property
    def encodes_at_once(self) -> bool:
        """Whether no network encodes, so that latents need not be kept."""
        return not isinstance(self.prior.autoencoder, DiffusersAutoencoder)

    def _encode(self, x: Tensor) -> Tensor:
        return self.prior.encode(x.to(self.prior.device)).float()

    def forward(self, phase: str, x: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of latents."""
        z0 = x
        noise = draws.normal(*z0.shape[1:])
        i = self._times(draws)
        abar = self.prior.abar[i].view(-1, 1, 1, 1)
        z = abar.sqrt() * z0 + (1 - abar).sqrt() * noise
        predicted = self.prior.denoiser(z, i - 1).sample.float()
        return (predicted - self._target(z0, noise, abar)).square().mean(), {}

    def _times(self, draws: Draws) -> Tensor:
        steps = len(self.prior.schedule)
        anywhere = draws.integers(1, steps + 1)
        early = draws.integers(1, max(1, round(self.config.early * steps)) + 1)
        return torch.where(draws.uniform() < self.config.early_share, early, anywhere)

    def _target(self, z0: Tensor, noise: Tensor, abar: Tensor) -> Tensor:
        """What the network predicts, by its scheduler's prediction type."""
        if self.prior.prediction == "epsilon":
            return noise
        if self.prior.prediction == "v_prediction":
            return abar.sqrt() * noise - (1 - abar).sqrt() * z0
        return z0

    def grid(self, x: Tensor, draws: Draws) -> list[Tensor]:
        """Images, and their one-step restorations from three noise levels."""
        z0 = self.prior.encode(x)
        noise = draws.normal(*z0.shape[1:])
        rows = [x]
        for part in (0.1, 0.3, 0.6):
            i = torch.full((len(x),), int(part * len(self.prior.schedule)), device=x.device)
            abar = self.prior.abar[i].view(-1, 1, 1, 1)
            rows.append(self.prior.decode(self.prior.denoise(abar.sqrt() * z0 + (1 - abar).sqrt() * noise, i)))
        return rows

    def save(self, out: Path) -> None:
        self.prior.denoiser.save_pretrained(out / "denoiser")
        self.prior.scheduler.save_pretrained(out / "scheduler")
