"""Stage 1: the autoencoder. It bounds everything after it."""

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from flashdiffusion.metrics.lpips import LPIPS
from flashdiffusion.priors.autoencoder import to_image_range, to_network_range
from flashdiffusion.training.config import AutoencoderConfig
from flashdiffusion.training.discriminator import PatchDiscriminator, hinge_loss
from flashdiffusion.training.draws import Draws
from flashdiffusion.training.stage import Stage


class AutoencoderStage(Stage):
    """L1 + LPIPS + KL (Rombach et al. 2022), with an optional adversarial term late in the run."""

    name = "autoencoder"

    def __init__(self, config: AutoencoderConfig, lpips: LPIPS | None) -> None:
        super().__init__()
        self.config: AutoencoderConfig = config
        self.lpips = lpips
        self.model = AutoencoderKL(**{"force_upcast": False, **config.model})
        self.discriminator = PatchDiscriminator() if config.adversarial_weight else None
        self._adversarial = False

    def phases(self, progress: float) -> list[str]:
        self._adversarial = self.discriminator is not None and progress >= self.config.adversarial_from
        return ["autoencoder", "discriminator"] if self._adversarial else ["autoencoder"]

    def trainable(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {"autoencoder": self.model}
        if self.discriminator is not None:
            modules["discriminator"] = self.discriminator
        return modules

    def forward(self, phase: str, x: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        target = to_network_range(x)
        with torch.set_grad_enabled(torch.is_grad_enabled() and phase == "autoencoder"):
            posterior = self.model.encode(target).latent_dist
            noise = draws.normal(*posterior.mean.shape[1:])
            output = self.model.decode(posterior.mean + posterior.std * noise).sample
        if phase == "discriminator":
            assert self.discriminator is not None
            loss = hinge_loss(self.discriminator(target), self.discriminator(output))
            return loss, {"discriminator": loss.detach()}
        l1 = F.l1_loss(output.float(), target)
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        loss, log = l1 + self.config.kl_weight * kl, {"l1": l1, "kl": kl}
        if self.lpips is not None and self.config.lpips_weight:
            log["lpips"] = self.lpips(to_image_range(output), x).mean()
            loss = loss + self.config.lpips_weight * log["lpips"]
        if self._adversarial and self.discriminator is not None:
            log["adversarial"] = -self.discriminator(output).mean()
            loss = loss + self.config.adversarial_weight * log["adversarial"]
        return loss, {key: value.detach() for key, value in log.items()}

    def grid(self, x: Tensor, draws: Draws) -> list[Tensor]:
        latent = self.model.encode(to_network_range(x)).latent_dist.mean
        return [x, to_image_range(self.model.decode(latent).sample)]

    def finish(self, x: Tensor) -> None:
        """Standardise each latent channel over some training images, so that the schedule sees unit scale."""
        raw = torch.cat([self.model.encode(to_network_range(part)).latent_dist.mean for part in x.split(16)])
        mean, std = raw.mean(dim=(0, 2, 3)), raw.std(dim=(0, 2, 3))
        self.model.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())

    def save(self, out: Path) -> None:
        self.model.save_pretrained(out / "autoencoder")
