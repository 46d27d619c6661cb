"""The networks under a pipeline: loaded, saved, moved, compiled, and asked what they can restore."""

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, replace
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor

from flashdiffusion.data import ensure_directory
from flashdiffusion.errors import CheckpointError, InputError, blamed_on, check_name, sized
from flashdiffusion.methods import Settings, check_used, default_solver, make_solver, make_start
from flashdiffusion.physics import BatchedPhysics
from flashdiffusion.physics.operator import as_physics
from flashdiffusion.presets import Presets, preset_for
from flashdiffusion.priors import (
    Conditions,
    DiffusersAutoencoder,
    DistilledDecoder,
    IdentityAutoencoder,
    LatentPrior,
    TinyDecoder,
    load_distilled_decoder,
    memory,
    resolve_for,
    save_component,
)
from flashdiffusion.priors.folder import read_index, resolve_folder, write_index
from flashdiffusion.priors.refused import refuse_file
from flashdiffusion.published import find_published, load_published
from flashdiffusion.regression import Regressor, load_regressor
from flashdiffusion.severity import Severity, SeverityEncoder, load_severity_encoder
from flashdiffusion.solvers import Problem, Solver, StartRule
from flashdiffusion.solvers.estimate import in_holes, with_holes
from flashdiffusion.solvers.measured import MeasuredSeverity
from flashdiffusion.solvers.registry import STARTS
from flashdiffusion.solvers.rows import Unknown
from flashdiffusion.types import Physics

DEFAULT_MODEL, PHOTOGRAPHS = "faces-128", "photos"
EMBEDDED, EMBEDDED_PREFIX = (DEFAULT_MODEL, PHOTOGRAPHS), "embedded:"
# Without a given size, pictures with a side above the first are cut, into tiles of the second, or of so many halos.
LARGE, TILE, HALOS = 1024, 256, 16
FAR_SIZE = 1.5  # shorter side of an image over the model's, or under it, from where the user is told
# How far noise may carry measurements beyond [0, 1]; images on a 0 to 255 scale lie far outside.
RANGE = 3.0
WHITES = (255, 65535)  # what white is in 8 bits and in 16


class Model:
    """The networks that restore images: prior, severity encoder and what stands beside them.

    source: the name, folder or hub id that it was loaded from, if it was.

    Args:
        prior: the latent diffusion prior.
        severity_encoder: None if only the baseline start (`start="noise"`) will be used.
        sample_size: side in pixels of the images that the model was trained on, if known.
        regressor: a supervised restoration network, for the starts "ccdf" and "regression".
        presets: settings tuned for the model, which live in its folder.
        distilled_decoder: a small stand-in for the decoder, for the gradient, see `Gradient`: one of ours, or the
            AutoencoderTiny that was distilled from its autoencoder.
    """

    source: str | None = None

    def __init__(
        self,
        prior: LatentPrior,
        severity_encoder: SeverityEncoder | None = None,
        sample_size: int | None = None,
        regressor: Regressor | None = None,
        distilled_decoder: DistilledDecoder | TinyDecoder | None = None,
        presets: Presets | None = None,
    ) -> None:
        self.prior = prior
        self.presets = Presets() if presets is None else presets
        self._warned = False
        self.distilled_decoder = distilled_decoder.requires_grad_(False).eval() if distilled_decoder else None
        self.regressor = regressor.requires_grad_(False).eval() if regressor else None
        self.severity_encoder = severity_encoder.requires_grad_(False).eval() if severity_encoder else None
        self.sample_size = sample_size
        self.compiled = False
        self._lay_out()

    # -- loading and saving -----------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        revision: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        torch_dtype: torch.dtype | None = None,
        variant: str | None = None,
        token: str | bool | None = None,
        subfolder: str | None = None,
        distilled_decoder: str | Path | None = None,
        **conditions: Any,
    ) -> Self:
        """Load a model: the embedded default, an embedded one by name, a folder, or a hub id; then move it, see `to`.

        A folder is in diffusers' layout: `autoencoder` (or `vqvae`, `vae`), `denoiser` (or `unet`, `transformer`),
        `scheduler`, text encoders where the denoiser is given text, and, for Flash starts, `severity_encoder`. What
        else a pipeline's folder holds is left alone. Published checkpoints (docs/checkpoints.md) give a prior alone.
        Code in pickled files is not executed.

        Args:
            revision: branch, tag or commit of a hub id.
            dtype: precision of the networks, also as `torch_dtype`, diffusers' name for it.
            variant: of the weights, such as "fp16".
            token: of the hub, for models that are private or gated.
            subfolder: the model's place in the folder.
            distilled_decoder: folder or hub id of an AutoencoderTiny of the same latents, for the gradient.
            conditions: fields of `Conditions`: prompt, negative_prompt, guidance_scale, class_label.

        Raises:
            CheckpointError: nothing there, or another layout.
            InputError: conditions that the model cannot be told, or two precisions.
        """
        if torch_dtype is not None and dtype not in (None, torch_dtype):
            raise InputError(f"dtype {dtype} and torch_dtype {torch_dtype}; expected one of them")
        dtype = dtype if torch_dtype is None else torch_dtype
        told = told_by(conditions)
        hub = {"revision": revision, "variant": variant, "token": token, "subfolder": subfolder}
        with torch.inference_mode(False):  # its weights are for gradients too, wherever it is loaded
            model = cls._load(source, hub, told, dtype)
            if told is not None and model.prior.conditions != told:
                model.prior.set_conditions(told)
            if distilled_decoder is not None:
                folder = resolve_folder(distilled_decoder, token=token)
                model.distilled_decoder = load_distilled_decoder(folder, model.prior.autoencoder)
            model.to(device, dtype)
        model.source = embedded_name(source) or str(source)
        return model

    @classmethod
    def _load(
        cls, source: str | Path | None, hub: dict[str, Any], told: Conditions | None, dtype: torch.dtype | None
    ) -> Self:
        given = [name for name, value in hub.items() if value is not None]
        if (embedded := _embedded(source)) is not None:
            if given:
                raise InputError(f"{given[0]} given for an embedded model; expected it for a folder or hub id alone")
            with as_file(embedded) as folder:
                return cls._from_folder(folder)
        name = str(source)
        refuse_file(Path(name))
        if find_published(name) is not None:
            prior = load_published(name)
            return cls(prior, sample_size=prior.sample_size, presets=_published(name))
        if "/" not in name and not Path(name).exists():
            expected = f"{', '.join(EMBEDDED)}, a folder in diffusers' layout, or a hub id owner/name"
            raise CheckpointError(f"no model {name!r}; expected {expected}")
        return cls._from_folder(resolve_for(told, name, **hub), hub["variant"], told, dtype)

    @classmethod
    def _from_folder(
        cls,
        folder: Path,
        variant: str | None = None,
        told: Conditions | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        index = read_index(folder)
        prior = LatentPrior.from_pretrained(
            folder, variant=variant, conditions=told, dtype=torch.float32 if dtype is None else dtype
        )
        loaders: dict[str, Callable[[Path], Any]] = {
            "severity_encoder": lambda own: load_severity_encoder(own, prior.autoencoder),
            "regressor": load_regressor,
            "distilled_decoder": lambda own: load_distilled_decoder(own, prior.autoencoder),
        }
        beside = {name: load(folder / name) for name, load in loaders.items() if (folder / name).is_dir()}
        size = index.get("sample_size", prior.sample_size if index else None)
        return cls(prior, sample_size=size, presets=cls.presets_of(folder), **beside)

    def set_conditions(self, **conditions: Any) -> Self:
        """Tell a conditional model something else of every image from now on: fields of `Conditions`; returns self.

        Raises:
            InputError: conditions that the model cannot be told.
        """
        self.prior.set_conditions(told_by(conditions) or Conditions())
        return self

    @staticmethod
    def presets_of(source: str | Path | None = None) -> Presets:
        """The settings of a model, without loading its networks; see `from_pretrained`."""
        if (embedded := _embedded(source)) is not None:
            with as_file(embedded) as folder:
                return Presets.read(folder)
        name = str(source)
        if find_published(name) is not None:
            return _published(name)
        folder = resolve_folder(name)
        own = Presets.read(folder)
        index = read_index(folder)
        return _published(name) if not own.table and index.get("_class_name") == "LDMPipeline" else own

    def settings_for(self, physics: Physics, start: str, solver: str, given: Settings | None = None) -> Settings:
        """The model's settings for a physics, with those given in place of its own; notes once if it is untuned."""
        if given is None and not self._warned:
            self._warned = True
            self.presets.warn()
        given = Settings() if given is None else given
        own = preset_for(self.presets, physics, start, solver, given.steps)
        if isinstance(self.severity_encoder, MeasuredSeverity):
            own = own | Settings(correction=MeasuredSeverity.caution * own.correction)
        return own | given

    def save_pretrained(self, out: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the model as a folder that `from_pretrained` reads, its weights as `dtype` if given.

        Raises:
            InputError: `out` cannot be written.
        """
        if dtype is not None:
            other = copy.deepcopy(self).to(dtype=dtype)
            if isinstance(own := other.prior.autoencoder, DiffusersAutoencoder):
                torch.nn.Module.to(own.model, dtype)  # also one that computes in float32: stored, nothing overflows
            other.save_pretrained(out)
            return
        out = ensure_directory(out)
        self.prior.save_pretrained(out)
        for name in ("severity_encoder", "regressor", "distilled_decoder"):
            if hasattr(network := getattr(self, name), "save_pretrained"):
                save_component(network, out / name)
        write_index(out, self.sample_size, self.prior.family.about)
        if self.presets.table and self.presets.tuned:
            self.presets.write(out)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move to a device or precision; returns self; raises InputError for a device that torch cannot use here."""
        with blamed_on(f"device {str(device)!r} cannot be used here", InputError):
            torch.zeros(1, device=device)
        for module in self._networks():
            if device is not None:
                module.to(device=device)
            if dtype is not None:
                torch.nn.Module.to(module, dtype=dtype)  # diffusers' own warns of layers that these models lack
        self._lay_out()
        return self

    def enable_attention_slicing(self, slice_size: str | int = "auto") -> Self:
        """Let the denoiser's attention go head by head, as in diffusers; returns self.

        Raises:
            InputError: a network that has no slices.
        """
        memory.enable_attention_slicing(self.prior, slice_size)
        return self

    def enable_vae_tiling(self) -> Self:
        """Let the autoencoder work on tiles that overlap, as in diffusers; returns self.

        Raises:
            InputError: an autoencoder without tiles.
        """
        memory.enable_vae_tiling(self.prior)
        return self

    def enable_gradient_checkpointing(self) -> Self:
        """Keep few activations for the gradient and compute the others again (docs/checkpoints.md); returns self.

        Raises:
            InputError: neither network can.
        """
        memory.enable_gradient_checkpointing(self.prior)
        return self

    def enable_model_cpu_offload(self, *_: Any, **__: Any) -> Self:
        """Is not supported; raises InputError, which says what there is in its place."""
        raise memory.refuse_offload()

    enable_sequential_cpu_offload = enable_model_cpu_offload

    @property
    def attends(self) -> bool:
        """Whether prior or severity encoder have attention: they look at a whole image of the size that they know."""
        networks = [one for one in (self.prior.autoencoder, self.severity_encoder) if one is not None]
        layers = (layer for network in networks for layer in network.modules())
        return self.prior.family.attends or any("attention" in type(layer).__name__.lower() for layer in layers)

    def far_from(self, size: tuple[int, int]) -> str | None:
        """Name the model's own size and what else there is, if images of `size` (H, W) are far from it; else None."""
        side = self.sample_size
        if side is None or 1 / FAR_SIZE <= min(size) / side <= FAR_SIZE:
            return None
        hint = f"; {PHOTOGRAPHS} is for photographs of any size" if self.source == DEFAULT_MODEL else ""
        return f"far from the {sized(side, side)} that the model was trained on{hint}"

    def tile_for(self, size: tuple[int, int], physics: BatchedPhysics | Unknown | None, tile: int | None = None) -> int:
        """Give the side in pixels of the tiles that a picture of `size` (H, W) is restored in; 0 for none.

        Args:
            physics: of this picture alone; None for one that is not ours.
            tile: what the user says; None leaves it to the model: one without attention takes large pictures in tiles.
        """
        if tile is None:
            halo = 0 if physics is None or physics.halo is None else physics.halo
            tile = 0 if max(size) <= LARGE or self.attends else max(TILE, HALOS * halo)
        return tile if max(size) > tile else 0

    def _networks(self) -> list[torch.nn.Module]:
        known = (self.prior, self.severity_encoder, self.regressor, self.distilled_decoder)
        return [network for network in known if network is not None]

    def _lay_out(self) -> None:
        """Put weights in the order that is fastest: on CPUs convolutions take channels last."""
        order = torch.channels_last if self.device.type == "cpu" else torch.contiguous_format
        for layer in (one for network in self._networks() for one in network.modules()):
            if isinstance(layer, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
                cast(Any, layer).to(memory_format=order)  # torch's stubs do not know it

    def half(self) -> Self:
        """To float16; returns self."""
        return self.to(dtype=torch.float16)

    def cuda(self) -> Self:
        """To the GPU; returns self."""
        return self.to("cuda")

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.prior.device

    def compile(self, mode: str = "default", **options: Any) -> Self:
        """Compile denoiser and decoder by `torch.compile`, which takes the arguments; returns self.

        Steps are then filled up to a power of two of images, so that the networks see few shapes;
        `mode="reduce-overhead"` makes CUDA graphs of them. It takes minutes and pays where launching kernels is what a
        step waits for: on a GPU with small networks. On CPUs it does not (docs/performance.md). For the guided solvers:
        ReSample's inner problems and DDIM inversion take batches of any size, and each is compiled anew.
        """
        for network in self.prior.compilable():
            network.compile(mode=mode, dynamic=False, **options)
        self.compiled = True
        return self

    @torch.inference_mode(False)
    def check(self, problem: Problem) -> Problem:
        """Put a problem on the model's device, in float32, padded for its networks; see that it can be restored.

        Raises:
            InputError: nothing this model can restore: y of another kind than finite floats on the [0, 1] scale, or
                for images that are too small.
        """
        y = problem.y
        if not y.is_floating_point():
            hint = ": pass y / 255" if y.dtype == torch.uint8 else ""
            raise InputError(f"measurements of type {y.dtype}; expected floats on the [0, 1] scale{hint}")
        if y.ndim < 2 or len(y) == 0:
            raise InputError(f"measurements of shape {tuple(y.shape)}; expected (B, 3, H, W) with B >= 1")
        if not bool(y.isfinite().all()):
            rows = (~y.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist()
            which = f"measurements {rows}" if len(y) > 1 else "the measurement"
            raise InputError(f"NaN or infinite values in {which}; expected finite numbers")
        problem.check_length()
        if y.is_inference():  # what is made in inference mode has no gradients
            problem = replace(problem, y=y.clone())
        problem = problem.to(self.device, torch.float32)
        image = problem.image
        low, high = float(image.min()), float(image.max())
        if low < -RANGE or high > 1 + RANGE:
            white = next((white for white in WHITES if low > -high and high < 2 * white), None)
            hint = "" if white is None or high < 0.1 * white else f": divide them by {white}"
            raise InputError(
                f"measurements range from {low:.3g} to {high:.3g}; expected the [0, 1] scale plus noise{hint}"
            )
        return problem.padded(self.prior.padding((image.shape[2], image.shape[3])))

    @torch.no_grad()
    def severity(self, y: Tensor, physics: Physics | None = None, batch_size: int = 16) -> Severity:
        """How damaged is each image? Measurements y on the [0, 1] scale; without a physics, images (B, 3, H, W).

        Args:
            physics: what made the measurements. The encoder is told what it can make use of: noise, kind of degradation
                and lost pixels (`severity.Conditions`).

        Raises:
            InputError: no severity encoder, or a y or physics that it cannot take.
        """
        problem = Problem(y) if physics is None else Problem(y, as_physics(physics, y))
        return self.severity_of(self.check(problem), batch_size)

    @torch.no_grad()
    def severity_of(self, problem: Problem, batch_size: int = 16) -> Severity:
        """How damaged is each image of a problem that this model has checked? See `severity`."""
        encoder = self._need_encoder()
        rows = torch.arange(len(problem)).split(batch_size)
        parts = [problem.take(own).severity(encoder) for own in rows]
        maps = [p.log_var_map for p in parts if p.log_var_map is not None]
        z_hat, var = torch.cat([p.z_hat for p in parts]), torch.cat([p.var for p in parts])
        severity = Severity(z_hat, var, torch.cat(maps) if maps else None)
        return with_holes(severity, in_holes(problem, (z_hat.shape[2], z_hat.shape[3])))

    def measure_severity(self, pictures: Tensor | None = None) -> Self:
        """Let severities be measured by the physics on a few pictures, where no encoder is trained; returns self.

        Flash starts work then (docs/checkpoints.md). It is not saved with the model.

        Args:
            pictures: (m, 3, H, W) in [0, 1], like those that will be restored; see `MeasuredSeverity`.

        Raises:
            InputError: no such pictures, or a model of pixels.
        """
        if isinstance(self.prior.autoencoder, IdentityAutoencoder):
            raise InputError("this model is one of pixels, and has no severity; take dps or ccdf(dps)")
        self.severity_encoder = cast(Any, MeasuredSeverity(self.prior, pictures).to(self.device))
        return self

    def take_for(self, kind: str) -> None:
        """Let the severity encoder take every degradation for one of this kind, to measure what a wrong one costs.

        Raises:
            InputError: a kind that the encoder cannot be told, or no severity encoder.
        """
        encoder = self._need_encoder()
        check_name("degradation told to the severity encoder", kind, encoder.config.conditions or ())
        encoder.told = kind

    def _need_encoder(self) -> SeverityEncoder:
        if self.severity_encoder is None:
            raise InputError("this model has no severity encoder; train one with `flashdiffusion train severity`")
        return self.severity_encoder

    def solver_for(self, start: str | StartRule, given: Collection[str]) -> str:
        """Choose the solver where none is named: DPS with a model of pixels, else see `default_solver`.

        Raises:
            InputError: settings of these names are given, and one belongs to other solvers.
        """
        pixels = isinstance(self.prior.autoencoder, IdentityAutoencoder)
        solver = "dps" if pixels else default_solver(start, given)
        starts = {name for one in STARTS.values() for name in one.settings}  # those of other starts do no harm
        check_used([name for name in given if name not in starts], "noise", solver)
        return solver

    def method(self, solver: str | Solver, start: str | StartRule, settings: Settings) -> tuple[Solver, StartRule]:
        """Solver and start rule by their names; objects are given back.

        Raises:
            InputError: unknown names, a network that the model lacks, settings out of range.
        """
        if not isinstance(self.prior.autoencoder, DiffusersAutoencoder):
            settings = Settings(decoder_error=0.0) | settings  # there is nothing that it cannot show
        if isinstance(solver, str):
            solver = make_solver(solver, self.prior, settings, self.distilled_decoder)
        if isinstance(start, str):
            start = make_start(
                start, self.prior, self.severity_encoder, settings, self.regressor, self.distilled_decoder
            )
        return solver, start


def told_by(conditions: Mapping[str, Any]) -> Conditions | None:
    """Make conditions of their values by name, None of no values; raises InputError for an unknown name."""
    for name in conditions:
        check_name("argument", name, [one.name for one in fields(Conditions)])
    return Conditions(**conditions) if conditions else None


def embedded_name(source: str | Path | None) -> str | None:
    """Name the embedded model that this is: the default, or one by its name, unless there is a folder of that name.

    `embedded:NAME` is that one whatever folders there are.
    """
    name = DEFAULT_MODEL if source is None else str(source)
    name, certain = name.removeprefix(EMBEDDED_PREFIX), source is None or name.startswith(EMBEDDED_PREFIX)
    return name if name in EMBEDDED and (certain or not Path(name).exists()) else None


def _embedded(source: str | Path | None) -> Traversable | None:
    """The folder of an embedded model."""
    name = embedded_name(source)
    return None if name is None else files("flashdiffusion") / "assets" / name


def _published(name: str) -> Presets:
    """Settings of a published checkpoint, by the images that its name says."""
    return Presets.published("LSUN" if "lsun" in name.lower() else "FFHQ")
