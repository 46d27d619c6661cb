"""The latent diffusion prior as one denoiser convention: z at time i -> estimate of the clean z0."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, VQModel
from torch import Tensor, nn

from flashdiffusion.data import ensure_directory
from flashdiffusion.errors import CheckpointError, InputError, SizeError, blamed_on, shown, sized
from flashdiffusion.priors.autoencoder import NETWORKS, DiffusersAutoencoder, IdentityAutoencoder
from flashdiffusion.priors.denoisers import Conditions, as_denoiser, load_denoiser
from flashdiffusion.priors.denoisers.own import Denoise, OwnDenoiser
from flashdiffusion.priors.folder import check_files, load_component, read_json, resolve_folder, save_component
from flashdiffusion.priors.padding import Padding, Size, reflected
from flashdiffusion.priors.patches import Autoencoder, PatchAutoencoder
from flashdiffusion.priors.precision import KeepsFloat32Buffers
from flashdiffusion.priors.refused import no_denoiser, reason_for
from flashdiffusion.priors.trial import check_output, photograph
from flashdiffusion.schedule import FLOW, NoiseSchedule, about_scheduler, is_flow, make_scheduler

LARGEST_UNIT = 1024
LEAST_SIDE = 16  # pixels of images that are padded; smaller ones would be little but padding
FAR_SCALE = 3.0  # a model's own scale stays within this factor of 1 on any one photograph
_PREDICTIONS = ("epsilon", "v_prediction", "sample")


def load_autoencoder(
    folder: Path, variant: str | None = None, dtype: torch.dtype = torch.float32
) -> DiffusersAutoencoder | PatchAutoencoder:
    """Load a KL, VQ, tiny, deep-compression or patch autoencoder from its folder in diffusers' layout.

    Raises:
        CheckpointError: missing, of another class, or weights that do not fit the config.
    """
    config = read_json(folder / "config.json")
    name = config.get("_class_name")
    if name == PatchAutoencoder.__name__:
        return PatchAutoencoder.from_pretrained(folder)
    if name not in list(NETWORKS):  # a list, since the name may be anything
        known = " or ".join((*NETWORKS, PatchAutoencoder.__name__))
        raise CheckpointError(f"{folder} holds a {shown(name)}{reason_for(name)}; expected {known}")
    upcast = dtype == torch.float16 and config.get("force_upcast")
    model = load_component(NETWORKS[name], folder, variant, torch.float32 if upcast else dtype)
    if name == "AutoencoderKL" and "force_upcast" not in config:
        model.register_to_config(force_upcast=False)  # which diffusers fills in as true
    if name == "VQModel" and "scaling_factor" not in config:
        # VQ latents of CompVis are not scaled; diffusers fills in the factor of Stable Diffusion's KL model.
        model.register_to_config(scaling_factor=1.0)
    with blamed_on(folder / "config.json"):
        return DiffusersAutoencoder(model)


def resolve_for(
    conditions: Conditions | None,
    source: str | Path,
    revision: str | None = None,
    variant: str | None = None,
    token: str | bool | None = None,
    subfolder: str | None = None,
) -> Path:
    """Return a model's folder as `resolve_folder` does, with the text encoders that these conditions need.

    Args:
        conditions: what the model will be told; None for what was saved with it.
    """

    def resolve(text: bool) -> Path:
        return resolve_folder(source, revision, variant, token, subfolder, text)

    if conditions is not None:
        return resolve(conditions.has_text)
    folder = resolve(False)
    return resolve(True) if Conditions.read(folder / "denoiser").has_text else folder


class LatentPrior(KeepsFloat32Buffers):
    """Autoencoder (E0, D0), denoiser and schedule ᾱ behind one convention; parameters are frozen.

    Args:
        autoencoder: images <-> scaled latents; the identity makes a pixel-space prior, for solvers of pixels.
        denoiser: a network of diffusers, of a family in `priors/denoisers`; one that learned the variance too gives
            twice the channels, of which the first half is the prediction and the rest is not used.
        scheduler: diffusers scheduler whose config holds the schedule and the prediction type.

    Raises:
        InputError: a prediction type or a network without a rule here, a schedule that is none, or networks of
            different channels.
    """

    abar: Tensor
    times: Tensor

    def __init__(
        self, autoencoder: Autoencoder, denoiser: nn.Module, scheduler: DDPMScheduler | FlowMatchEulerDiscreteScheduler
    ) -> None:
        super().__init__()
        self.autoencoder, self.scheduler = autoencoder, scheduler
        about = about_scheduler(scheduler)
        self.family = as_denoiser(denoiser)
        flow = is_flow(about)
        self.prediction = self.family.prediction or (FLOW if flow else str(about.get("prediction_type", "epsilon")))
        if not flow and self.prediction not in _PREDICTIONS:
            raise InputError(f"prediction type {shown(self.prediction)}; expected one of {', '.join(_PREDICTIONS)}")
        self.family.factor = autoencoder.factor
        c, ins, outs = autoencoder.channels, self.family.channels, self.family.channels_out
        if ins != c or outs not in (c, 2 * c):
            raise InputError(
                f"denoiser of {ins} channels in and {outs} out with an autoencoder of {c} latent channels; expected "
                "equal numbers, or twice as many out"
            )
        self.schedule = NoiseSchedule.from_config(about, self.family.tokens)
        if self.schedule.without_signal and self.prediction == "epsilon":
            raise InputError(
                "prediction type 'epsilon' with a schedule whose last step has no signal (rescale_betas_zero_snr): "
                "there the noise says nothing of the image; expected v_prediction or sample"
            )
        self.register_buffer("abar", self.schedule.abar.float(), persistent=False)
        times = torch.arange(len(self.schedule) + 1) if self.family.told_steps else self.schedule.times
        self.register_buffer("times", times, persistent=False)
        self.requires_grad_(False).eval()

    @classmethod
    def of(
        cls,
        denoise: Denoise,
        schedule: DDPMScheduler | FlowMatchEulerDiscreteScheduler | Mapping[str, Any] | None = None,
        autoencoder: Autoencoder | None = None,
        unit: int = 1,
        sample_size: int | None = None,
    ) -> "LatentPrior":
        """Make a prior of your own denoiser: any function z, i -> ẑ0, differentiable in z.

        Args:
            denoise: latents z (B, c, h, w) with z = √ᾱ_i z0 + √(1 - ᾱ_i) ε, times i in 1..N, int64 (B,), give ẑ0.
            schedule: a diffusers scheduler or its config; None for 1000 steps, β linear from 1e-4 to 0.02.
            autoencoder: None for one of pixels: latents (B, 3, H, W) in [-1, 1].
            unit: sides of latents are padded to multiples of it.
            sample_size: side of the latents that it was trained on, if known.

        Raises:
            InputError: no function, or a schedule that is none.
        """
        autoencoder = IdentityAutoencoder() if autoencoder is None else autoencoder
        config = (
            {} if schedule is None else dict(schedule) if isinstance(schedule, Mapping) else about_scheduler(schedule)
        )
        own = OwnDenoiser(denoise, autoencoder.channels, unit, sample_size)
        return cls(autoencoder, own, make_scheduler(config))

    @property
    def denoiser(self) -> Any:
        """The network of diffusers."""
        return self.family.model

    @property
    def conditions(self) -> Conditions:
        """What the denoiser is told of every image: prompt, class, guidance."""
        return self.family.conditions

    def set_conditions(self, conditions: Conditions) -> None:
        """Tell the denoiser something else of every image from now on.

        Raises:
            InputError: it cannot be told that.
        """
        self.family.set_conditions(conditions)

    @property
    def device(self) -> torch.device:
        return self.abar.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the networks; latents and schedule arithmetic stay in float32 around them."""
        place = next(self.denoiser.parameters(), None)
        return torch.float32 if place is None else place.dtype

    @property
    def sample_size(self) -> int | None:
        """Side in pixels of the images the denoiser was trained on, if its config says so."""
        side = self.family.sample_size
        return None if side is None else side * self.autoencoder.factor

    def compilable(self) -> list[torch.nn.Module]:
        """The networks that a step runs."""
        decoder = [self.autoencoder.model.decoder] if isinstance(self.autoencoder, DiffusersAutoencoder) else []
        return [self.denoiser, *decoder]

    @property
    def unit(self) -> int:
        """Sides of images that the networks see are multiples of it, in pixels."""
        return self.autoencoder.factor * self.family.unit

    def padding(self, size: Size) -> Padding | None:
        """Say how images of `size` (H, W) are padded for the networks; None if they take them as they are.

        Raises:
            SizeError: a side of less than `LEAST_SIDE` pixels, or than `unit` if that is less; or of more than the
                denoiser has positions for.
        """
        if min(size) < (least := min(LEAST_SIDE, self.unit)):
            raise SizeError(f"images of {sized(*size)}; expected at least {least} pixels a side")
        padded = self._padded(size)
        most = self.family.largest
        if most is not None and max(padded) > (most := most * self.autoencoder.factor):
            raise SizeError(f"images of {sized(*size)}; this model has positions for {most} pixels a side; take tiles")
        return None if padded == size else Padding(size, padded)

    def _padded(self, size: Size) -> Size:
        height, width = (-(-side // self.unit) * self.unit for side in size)
        return (max(height, width),) * 2 if self.family.square else (height, width)

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
        abar = self.abar[i].view(-1, 1, 1, 1).to(z.dtype)
        a, b = abar.sqrt(), (1 - abar).sqrt()
        given = z / (a + b) if self.prediction == FLOW else z
        output = self.family(given.to(self.dtype), self.times[i]).to(z.dtype)
        if self.prediction == FLOW:
            return (z - b * output) / (a + b)
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
        if isinstance(self.autoencoder, DiffusersAutoencoder) and not 1 / FAR_SCALE < std < FAR_SCALE:
            own = self.autoencoder.model.config.get("scaling_factor")
            factor = 1.0 if own is None else float(own)
            warnings.warn(
                f"{source}: latents of a photograph have a standard deviation of {std:.2g}; its diffusion model is "
                f"made for about 1. The autoencoder's config has a scaling_factor of {factor:g}: where the original "
                f"has none, another library wrote its own; set it to 1, which gives {std / factor:.2g}",
                stacklevel=2,
            )

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        revision: str | None = None,
        *,
        sha256: Mapping[str, str] | None = None,
        variant: str | None = None,
        token: str | bool | None = None,
        subfolder: str | None = None,
        dtype: torch.dtype = torch.float32,
        conditions: Conditions | None = None,
    ) -> "LatentPrior":
        """Load a prior from its folder; of pickled files only tensors are read, code in them is not executed.

        Published checkpoint files are read by `flashdiffusion.published.load_published`.

        Args:
            source: a diffusers folder (autoencoder, denoiser, scheduler; text encoders where text is given) or hub id,
                also under the names of diffusers' pipelines (`vqvae` or `vae`, `unet` or `transformer`); without an
                autoencoder it works on pixels.
            revision: branch, tag or commit of a hub id.
            sha256: {file in the folder: its expected SHA-256}.
            variant, token, subfolder: see `resolve_folder`.
            dtype: of the networks.
            conditions: what a conditional model is told; None for what was saved with it, or nothing.

        Raises:
            CheckpointError: nothing of the kind, or not what it should be.
        """
        folder = resolve_for(conditions, source, revision, variant, token, subfolder)
        check_files(folder, sha256 or {})
        if variant is not None and not any(folder.glob(f"*/*.{variant}[.-]*")):
            raise CheckpointError(f"{folder} has no weights of variant {variant!r}; leave it out for the model's own")
        denoisers = [name for name in ("denoiser", "unet", "transformer") if (folder / name).is_dir()]
        if not denoisers:
            raise no_denoiser(folder)
        config = read_json(scheduler_file := folder / "scheduler" / "scheduler_config.json")
        with blamed_on(scheduler_file):
            scheduler = make_scheduler(config)
        denoiser = load_denoiser(folder / denoisers[0], conditions, variant, dtype)
        names = [name for name in ("autoencoder", "vqvae", "vae") if (folder / name).is_dir()]
        autoencoder = load_autoencoder(folder / names[0], variant, dtype) if names else IdentityAutoencoder()
        with blamed_on(folder):
            return cls(autoencoder, denoiser, scheduler).tried(str(folder))

    def save_pretrained(self, out: str | Path) -> None:
        """Write the diffusers folders `autoencoder` (unless it is the identity), `denoiser`, `scheduler`.

        Those of text encoders and tokenizers are copied.

        Raises:
            InputError: a denoiser that is a function of your own.
        """
        out = ensure_directory(out)
        self.family.save(out / "denoiser")
        if isinstance(self.autoencoder, DiffusersAutoencoder):
            save_component(self.autoencoder.model, out / "autoencoder")
        elif isinstance(self.autoencoder, PatchAutoencoder):
            self.autoencoder.save_pretrained(out / "autoencoder")
        self.scheduler.save_pretrained(out / "scheduler")
