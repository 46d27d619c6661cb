"""Stage 3: the severity encoder."""

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from flashdiffusion.data import ImageDataset
from flashdiffusion.data.crops import Crops
from flashdiffusion.errors import InputError
from flashdiffusion.priors import DiffusersAutoencoder, PatchAutoencoder
from flashdiffusion.severity import Conditions, PatchSeverityEncoder, SeverityEncoder, true_severity
from flashdiffusion.training.config import SeverityConfig
from flashdiffusion.training.degrade import Degradation, Seen
from flashdiffusion.training.draws import Draws
from flashdiffusion.training.latents import ImagesAndLatents, Latents, digest
from flashdiffusion.training.stage import Examples, Stage

# Shares of the images of which nothing is told, and of those of which the noise, or the degradation, is not.
BLIND, UNTOLD = 0.2, 0.2


class SeverityStage(Stage):
    """L = ‖ẑ - z0‖²/(σ̂ d) + λ_σ ℓ(σ̂², σ̄²) + λ_im ‖x - D0(ẑ)‖²/n, degradations drawn afresh for every image.

    The first term is divided by the error that is expected of the image, σ̂, through which no gradient flows, so that
    mild images count beside ruined ones (β-NLL of Seitzer et al., ICLR 2022, with β = 1/2). The paper's head has it
    as it is in the paper, without σ̂.

    ℓ is (σ̂² - σ̄²)² for the paper's head. For the log-variance head it is (log σ̂² - log σ̄²)² plus the Gaussian
    negative log-likelihood of the error at each place of the latent, log σ² + |e|²/c / σ², which tells the head where
    the damage is and so teaches it from far fewer images. E0 and D0 are frozen.
    The image term is taken on the networks' [-1, 1] scale, as in the paper. The true severity σ̄² is a target:
    no gradient flows into it.
    """

    name = "severity"

    def __init__(self, config: SeverityConfig, autoencoder: DiffusersAutoencoder | PatchAutoencoder) -> None:
        super().__init__()
        self.config: SeverityConfig = config
        self.degrade = Degradation(config.task, config.noise_std)
        kinds = self.degrade.kinds if config.conditions else None
        self.encoder: SeverityEncoder
        if isinstance(autoencoder, PatchAutoencoder):
            if config.model is None:
                raise InputError("a patch autoencoder's severity encoder has a network of its own; expected `model`")
            if config.head != "log-variance":
                raise InputError(f"severity head is {config.head}; with a patch autoencoder it is log-variance alone")
            self.encoder = PatchSeverityEncoder.of(autoencoder, config.model, kinds)
        else:
            self.encoder = SeverityEncoder.from_autoencoder(autoencoder, config.head, config.refine_layers, kinds)
        self.autoencoder = autoencoder.requires_grad_(False).eval()

    def phases(self, progress: float) -> list[str]:
        return ["severity"]

    def trainable(self) -> dict[str, nn.Module]:
        return {"severity": self.encoder}

    def examples(self, data: ImageDataset, out: Path) -> Examples:
        if isinstance(data, Crops) or not isinstance(self.autoencoder, DiffusersAutoencoder):
            return data  # no crop comes twice; or no network encodes
        shape = self._encode(torch.zeros(1, 3, data.side, data.side)).shape[1:]
        return ImagesAndLatents(Latents(data, self._encode, shape, digest(self.autoencoder), out))

    def mirrored(self, batch: Tensor | tuple[Tensor, Tensor], flip: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if isinstance(batch, Tensor):
            return cast(Tensor, super().mirrored(batch, flip))
        images, pairs = batch
        z0 = torch.where(flip.view(-1, 1, 1, 1), pairs[:, 1], pairs[:, 0])
        return super().mirrored(images, flip), z0.float()

    @torch.no_grad()
    def _encode(self, x: Tensor) -> Tensor:
        device = next(self.encoder.parameters()).device  # a patch autoencoder has no weights
        return self.autoencoder.encode(x.to(device)).float()

    def forward(self, phase: str, x: Tensor | tuple[Tensor, Tensor], draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of images, or of images and their latents."""
        x, z0 = (x, self._encode(x)) if isinstance(x, Tensor) else x
        with torch.no_grad():
            y, known = told(self.degrade.seen(x, draws), draws)
        severity = self.encoder(y, known)
        z_hat, var = severity.z_hat.float(), severity.var.float()
        error = (z_hat - z0).square().flatten(1).mean(dim=1)
        fit = error.mean()
        true = true_severity(z_hat, z0).detach().clamp(min=1e-8)
        log = {"latent": fit, "true": true.mean(), "predicted": var.mean()}
        if severity.log_var_map is None:
            log["severity"] = (var - true).square().mean()
        else:
            fit = (error / var.detach().sqrt()).mean()
            log["severity"] = (var.log() - true.log()).square().mean()
            local = (z_hat - z0).detach().square().mean(dim=1).clamp(min=1e-8)
            excess = local.log() - severity.log_var_map  # the likelihood's own terms, 0 at its optimum
            log["local"] = (excess.exp() - excess - 1).mean()
        loss = fit + self.config.severity_weight * (log["severity"] + log.get("local", 0))
        if self.config.image_weight:
            log["image"] = self._image_loss(z_hat, x, draws)
            loss = loss + self.config.image_weight * log["image"]
        return loss, {key: value.detach() for key, value in log.items()}

    def _image_loss(self, z_hat: Tensor, x: Tensor, draws: Draws) -> Tensor:
        """Over rows spread evenly over the global batch, so that they are the same for any number of processes.

        A process's part is scaled so that the mean over the processes is the mean over these rows.
        """
        count = max(1, round(self.config.image_share * draws.total))
        own = range(draws.total)[draws.rows]
        rows = [p - own.start for p in (n * draws.total // count for n in range(count)) if p in own]
        if not rows:
            return z_hat.new_zeros(())
        square = 4 * (self.autoencoder.decode(z_hat[rows]).float() - x[rows]).square().flatten(1).mean(dim=1)
        return square.sum() * draws.total / (count * len(own))

    def grid(self, x: Tensor, draws: Draws) -> list[Tensor]:
        seen = self.degrade.seen(x, draws)
        return [x, seen.image, self.autoencoder.decode(self.encoder(seen.filled, seen.conditions).z_hat)]

    def save(self, out: Path) -> None:
        self.encoder.save_pretrained(out / "severity_encoder")


def told(seen: Seen, draws: Draws, nothing: float = BLIND) -> tuple[Tensor, Conditions]:
    """Give measurements as images with some of what is known of them: of a share `nothing`, of others a part."""
    blind, no_noise, no_kind = (draws.uniform() < share for share in (nothing, UNTOLD, UNTOLD))
    known = seen.conditions.without(blind | no_noise, blind, blind | no_kind)
    return torch.where(blind.view(-1, 1, 1, 1), seen.image, seen.filled), known
