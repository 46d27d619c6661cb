"""The latent diffusion prior as one denoiser convention: z at time i -> estimate of the clean z0."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Self, cast

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DModel, VQModel
from torch import Tensor

from flashdiffusion.data import ensure_directory
from flashdiffusion.errors import CheckpointError, InputError, SizeError, blamed_on, shown, sized
from flashdiffusion.priors.autoencoder import DiffusersAutoencoder, IdentityAutoencoder
from flashdiffusion.priors.folder import check_files, load_component, read_json, resolve_folder, save_component
from flashdiffusion.priors.padding import Padding, Size, reflected
from flashdiffusion.priors.patches import Autoencoder, PatchAutoencoder
from flashdiffusion.priors.precision import KeepsFloat32Buffers
from flashdiffusion.priors.trial import check_output, photograph
from flashdiffusion.schedule import NoiseSchedule

_AUTOENCODERS = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}
LARGEST_UNIT = 1024
LEAST_SIDE = 16  # pixels of images that are padded; smaller ones would be little but padding
FAR = 3.0  # a model's own scale stays within this factor of 1 on any one photograph
_PREDICTIONS = ("epsilon", "v_prediction", "sample")


def load_autoencoder(folder: Path) -> DiffusersAutoencoder | PatchAutoencoder:
    """Load a KL, VQ or patch autoencoder from its folder in diffusers' layout.

    Raises:
        CheckpointError: missing, of another class, or weights that do not fit the config.
    """
    config = read_json(folder / "config.json")
    name = config.get("_class_name")
    if name == PatchAutoencoder.__name__:
        return PatchAutoencoder.from_pretrained(folder)
    if name not in list(_AUTOENCODERS):  # a list, since the name may be anything
        known = " or ".join((*_AUTOENCODERS, PatchAutoencoder.__name__))
        raise CheckpointError(f"{folder} holds a {shown(name)}; expected {known}")
    model = load_component(_AUTOENCODERS[name], folder)
    if name == "VQModel" and "scaling_factor" not in config:
        # VQ latents of CompVis are not scaled; diffusers fills in the factor of Stable Diffusion's KL model.
        model.register_to_config(scaling_factor=1.0)
    with blamed_on(folder / "config.json"):
        return DiffusersAutoencoder(model)


class LatentPrior(KeepsFloat32Buffers):
    """Autoencoder (E0, D0), noise predictor ε_θ and schedule ᾱ; parameters are frozen.

    Args:
        autoencoder: images <-> scaled latents; the identity makes a pixel-space prior, for solvers of pixels.
        denoiser: diffusers' UNet2DModel, called with timesteps 0..N-1; one that learned the variance too gives
            twice the channels, of which the first half is the prediction and the rest is not used.
        scheduler: diffusers scheduler whose config holds the schedule and the prediction type.

    Raises:
        InputError: a prediction type without a rule here, or networks of different channels.
    """

    abar: Tensor

    def __init__(self, autoencoder: Autoencoder, denoiser: UNet2DModel, scheduler: DDPMScheduler) -> None:
        super().__init__()
        self.autoencoder, self.denoiser, self.scheduler = autoencoder, denoiser, scheduler
        self.prediction = str(scheduler.config.get("prediction_type", "epsilon"))
        if self.prediction not in _PREDICTIONS:
            raise InputError(f"prediction type {shown(self.prediction)}; expected one of {', '.join(_PREDICTIONS)}")
        c = autoencoder.channels
        if denoiser.config.in_channels != c or denoiser.config.out_channels not in (c, 2 * c):
            raise InputError(
                f"denoiser of {denoiser.config.in_channels} channels in and {denoiser.config.out_channels} out with an "
                f"autoencoder of {c} latent channels; expected equal numbers, or twice as many out"
            )
        self.schedule = NoiseSchedule.from_config(scheduler.config)
        self.register_buffer("abar", self.schedule.abar.float(), persistent=False)
        self.requires_grad_(False).eval()

    @property
    def device(self) -> torch.device:
        return self.abar.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the networks; latents and schedule arithmetic stay in float32 around them."""
        return next(self.denoiser.parameters()).dtype

    @property
    def sample_size(self) -> int | None:
        """Side in pixels of the images the denoiser was trained on, if its config says so."""
        side = self.denoiser.config.sample_size
        return side * self.autoencoder.factor if isinstance(side, int) else None

    def compilable(self) -> list[torch.nn.Module]:
        """The networks that a step runs."""
        decoder = [self.autoencoder.model.decoder] if isinstance(self.autoencoder, DiffusersAutoencoder) else []
        return [self.denoiser, *decoder]

    @property
    def unit(self) -> int:
        """Sides of images that the networks see are multiples of it, in pixels."""
        return self.autoencoder.factor * 2 ** (len(self.denoiser.config.block_out_channels) - 1)

    def padding(self, size: Size) -> Padding | None:
        """Say how images of `size` (H, W) are padded for the networks; None if they take them as they are.

        Raises:
            SizeError: a side of less than `LEAST_SIDE` pixels, or than `unit` if that is less.
        """
        if min(size) < (least := min(LEAST_SIDE, self.unit)):
            raise SizeError(f"images of {sized(*size)}; expected at least {least} pixels a side")
        padded = self._padded(size)
        return None if padded == size else Padding(size, padded)

    def _padded(self, size: Size) -> Size:
        height, width = (-(-side // self.unit) * self.unit for side in size)
        return height, width

    def latent_shape(self, size: Size) -> tuple[int, int, int]:
        """Return the latent shape (c, h, w) of images of `size` (H, W), padded; raises as `padding` does."""
        self.padding(size)
        height, width = (side // self.autoencoder.factor for side in self._padded(size))
        return self.autoencoder.channels, height, width

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], padded where they must be -> latents (B, c, h, w) of unit scale.

        Differentiable.
        """
        return self.autoencoder.encode(reflected(x, self._padded((x.shape[2], x.shape[3]))))

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, c, h, w) -> images (B, 3, H, W) in [0, 1], not clipped; differentiable.

        Where images were padded, so are these.
        """
        return self.autoencoder.decode(z)

    @property
    def invertible(self) -> bool:
        """Whether decoding gives back what was encoded: latents are pixels, or patches of them."""
        return not isinstance(self.autoencoder, DiffusersAutoencoder)

    @property
    def quantises(self) -> bool:
        """Whether decoding quantises latents, as VQ models do."""
        return isinstance(self.autoencoder, DiffusersAutoencoder) and isinstance(self.autoencoder.model, VQModel)

    def smooth_decode(self, z: Tensor) -> Tensor:
        """Decode without the quantisation of VQ models, which has no derivative."""
        return self.autoencoder.decode(z, quantise=False)

    def denoise(self, z: Tensor, i: Tensor) -> Tensor:
        """Estimate the posterior mean ẑ0(z_i) of z (B, c, h, w), differentiable in z; times i in 1..N, int64 (B,)."""
        output = cast(Tensor, self.denoiser(z.to(self.dtype), i - 1).sample)[:, : z.shape[1]].to(z.dtype)
        abar = self.abar[i].view(-1, 1, 1, 1).to(z.dtype)
        a, b = abar.sqrt(), (1 - abar).sqrt()
        if self.prediction == "epsilon":
            return (z - b * output) / a
        if self.prediction == "v_prediction":
            return a * z - b * output
        return output

    @torch.no_grad()
    def tried(self, source: str) -> Self:
        """Run each network on a small photograph, and return the prior itself.

        Warns of latents whose standard deviation is far from 1, as by a scaling factor that is not the model's own.

        Raises:
            CheckpointError: they fail, or give another shape than expected, NaN or infinite values.
        """
        if self.unit > LARGEST_UNIT:
            raise CheckpointError(f"{source} halves images down to 1/{self.unit}; expected 1/{LARGEST_UNIT} at most")
        x = photograph(self.unit).to(self.device)
        shape = (1, *self.latent_shape((x.shape[2], x.shape[3])))
        with blamed_on(f"{source}: its networks fail on an image"):
            z = self.encode(x)
            outputs = {
                "autoencoder's encoder": (z, shape),
                "denoiser": (self.denoise(z, torch.tensor([len(self.schedule) // 2 + 1])), z.shape),
                "autoencoder's decoder": (self.decode(z), x.shape),
            }
        for name, (output, expected) in outputs.items():
            check_output(source, name, output, expected)
        self._check_scale(float(z.std()), source)
        return self

    def _check_scale(self, std: float, source: str) -> None:
        if isinstance(self.autoencoder, DiffusersAutoencoder) and not 1 / FAR < std < FAR:
            factor = float(self.autoencoder.model.config.get("scaling_factor") or 1.0)
            warnings.warn(
                f"{source}: latents of a photograph have a standard deviation of {std:.2g}; its diffusion model is "
                f"made for about 1. The autoencoder's config has a scaling_factor of {factor:g}: where the original "
                f"has none, another library wrote its own; set it to 1, which gives {std / factor:.2g}",
                stacklevel=2,
            )

    @classmethod
    def from_pretrained(
        cls, source: str | Path, revision: str | None = None, *, sha256: Mapping[str, str] | None = None
    ) -> "LatentPrior":
        """Load a prior from its folder; of pickled files only tensors are read, code in them is not executed.

        Published checkpoint files are read by `flashdiffusion.published.load_published`.

        Args:
            source: a diffusers folder (autoencoder, denoiser, scheduler) or hub id, also under the names of diffusers'
                LDMPipeline (`vqvae`, `unet`) and DDPMPipeline (no autoencoder).
            revision: branch, tag or commit of a hub id.
            sha256: {file in the folder: its expected SHA-256}.

        Raises:
            CheckpointError: nothing of the kind, or not what it should be.
        """
        folder = resolve_folder(source, revision)
        check_files(folder, sha256 or {})
        denoisers = [name for name in ("denoiser", "unet") if (folder / name).is_dir()]
        if not denoisers:
            raise CheckpointError(f"{folder} has no folder denoiser or unet; expected a diffusers model folder")
        config = read_json(scheduler_file := folder / "scheduler" / "scheduler_config.json")
        with blamed_on(scheduler_file):
            NoiseSchedule.from_config(config)  # checked before diffusers allocates a step
            scheduler = DDPMScheduler.from_config(config)
        denoiser = load_component(UNet2DModel, folder / denoisers[0])
        names = [name for name in ("autoencoder", "vqvae", "vae") if (folder / name).is_dir()]
        autoencoder = load_autoencoder(folder / names[0]) if names else IdentityAutoencoder()
        with blamed_on(folder):
            return cls(autoencoder, denoiser, scheduler).tried(str(folder))

    def save_pretrained(self, out: str | Path) -> None:
        """Write the diffusers folders `autoencoder` (unless it is the identity), `denoiser`, `scheduler`."""
        out = ensure_directory(out)
        if isinstance(self.autoencoder, DiffusersAutoencoder):
            save_component(self.autoencoder.model, out / "autoencoder")
        elif isinstance(self.autoencoder, PatchAutoencoder):
            self.autoencoder.save_pretrained(out / "autoencoder")
        save_component(self.denoiser, out / "denoiser")
        self.scheduler.save_pretrained(out / "scheduler")
