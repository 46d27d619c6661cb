"""FlashPipeline: what a user holds."""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from tqdm.auto import tqdm

from flashdiffusion.data import ensure_directory
from flashdiffusion.engine.batch import Batch, Restored, check_length
from flashdiffusion.engine.capacity import Capacity
from flashdiffusion.engine.cost import Costs
from flashdiffusion.engine.stream import Stream, regressed
from flashdiffusion.errors import CheckpointError, InputError
from flashdiffusion.methods import Settings, make_solver, make_start, parse_method
from flashdiffusion.pipeline.inputs import Given, as_measurements, as_physics, note_range
from flashdiffusion.pipeline.restoration import Restoration
from flashdiffusion.presets import Presets, preset_for
from flashdiffusion.priors import (
    DistilledDecoder,
    IdentityAutoencoder,
    LatentPrior,
    load_component,
    load_distilled_decoder,
    read_index,
    resolve_folder,
    save_component,
    write_index,
)
from flashdiffusion.published import find_published, load_published
from flashdiffusion.regression import Regressor
from flashdiffusion.severity import Severity, SeverityEncoder, load_severity_encoder
from flashdiffusion.solvers import Problem, Solver, StartRule
from flashdiffusion.types import Physics

DEFAULT_MODEL = "faces-128"
# How far noise may carry measurements beyond [0, 1]; images on a 0 to 255 scale lie far outside.
RANGE = 3.0
Callback = Callable[[int, Tensor, list[str]], None]


class FlashPipeline:
    """Sample-adaptive restoration: severity encoder, start rule, latent solver, decoder.

    Args:
        prior: the latent diffusion prior.
        severity_encoder: None if only the baseline start (`start="noise"`) will be used.
        sample_size: side in pixels of the images that the model was trained on, if known.
        regressor: a supervised restoration network, for the starts "ccdf" and "regression".
        presets: settings tuned for the model, which live in its folder.
        distilled_decoder: a small stand-in for the decoder, for the gradient, see `Gradient`.
    """

    def __init__(
        self,
        prior: LatentPrior,
        severity_encoder: SeverityEncoder | None = None,
        sample_size: int | None = None,
        regressor: Regressor | None = None,
        distilled_decoder: DistilledDecoder | None = None,
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
        self._from_noise = False  # whether that was said
        self.costs = Costs(prior, self.severity_encoder)

    # -- loading and saving -----------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        revision: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Load a model: the embedded default, an embedded one by name, a folder, or a hub id.

        A folder is in diffusers' layout: `autoencoder` (or `vqvae`, `vae`), `denoiser` (or `unet`), `scheduler`,
        and, for Flash starts, `severity_encoder`. Published checkpoints (docs/checkpoints.md) give a prior alone. Code
        in pickled files is not executed.

        Args:
            device, dtype: where to put it, and in which precision; see `to`.

        Raises:
            CheckpointError: nothing there, or another layout.
        """
        with torch.inference_mode(False):  # its weights are for gradients too, wherever it is loaded
            return cls._load(source, revision).to(device, dtype)

    @classmethod
    def _load(cls, source: str | Path | None, revision: str | None) -> Self:
        if (embedded := _embedded(source)) is not None:
            with as_file(embedded) as folder:
                return cls._from_folder(folder)
        name = str(source)
        if find_published(name) is not None:
            prior = load_published(name)
            return cls(prior, sample_size=prior.sample_size, presets=_published(name))
        if "/" not in name and not Path(name).exists():
            expected = f"{DEFAULT_MODEL}, a folder in diffusers' layout, or a hub id owner/name"
            raise CheckpointError(f"no model {name!r}; expected {expected}")
        return cls._from_folder(resolve_folder(name, revision))

    @classmethod
    def _from_folder(cls, folder: Path) -> Self:
        index = read_index(folder)
        prior = LatentPrior.from_pretrained(folder)
        encoder = None
        if (folder / "severity_encoder").is_dir():
            encoder = load_severity_encoder(folder / "severity_encoder", prior.autoencoder)
        regressor = load_component(Regressor, folder / "regressor") if (folder / "regressor").is_dir() else None
        distilled = None
        if (folder / "distilled_decoder").is_dir():
            distilled = load_distilled_decoder(folder / "distilled_decoder", prior.autoencoder)
        size = index.get("sample_size", prior.sample_size if index else None)
        return cls(prior, encoder, size, regressor, distilled, cls.presets_of(folder))

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
        return preset_for(self.presets, physics, start, solver, given.steps) | given

    def save_pretrained(self, out: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the model as a folder that `from_pretrained` reads, its weights as `dtype` if given.

        Raises:
            InputError: `out` cannot be written.
        """
        if dtype is not None:
            copy.deepcopy(self).to(dtype=dtype).save_pretrained(out)
            return
        out = ensure_directory(out)
        self.prior.save_pretrained(out)
        if self.severity_encoder is not None:
            save_component(self.severity_encoder, out / "severity_encoder")
        if self.regressor is not None:
            save_component(self.regressor, out / "regressor")
        if self.distilled_decoder is not None:
            save_component(self.distilled_decoder, out / "distilled_decoder")
        write_index(out, self.sample_size)
        if self.presets.table and self.presets.tuned:
            self.presets.write(out)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move to a device or precision; returns self."""
        for module in (self.prior, self.severity_encoder, self.regressor, self.distilled_decoder):
            if module is not None and device is not None:
                module.to(device=device)
            if module is not None and dtype is not None:
                torch.nn.Module.to(module, dtype=dtype)  # diffusers' own warns of layers that these models lack
        return self

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
        """Compile denoiser and decoder by `torch.compile`; returns self.

        Steps are then filled up to a power of two of images, so that the networks see few shapes;
        `mode="reduce-overhead"` makes CUDA graphs of them. It takes minutes and pays where launching kernels is what a
        step waits for: on a GPU with small networks. On CPUs it does not (docs/results.md). For the guided solvers:
        ReSample's inner problems and DDIM inversion take batches of any size, and each is compiled anew.

        Args:
            mode, options: see `torch.compile`.
        """
        for network in self.prior.compilable():
            network.compile(mode=mode, dynamic=False, **options)
        self.compiled = True
        return self

    # -- use --------------------------------------------------------------------------------------------

    @torch.inference_mode(False)
    def check(self, problem: Problem) -> Problem:
        """Put a problem on the model's device, in float32, and see that the model can restore it.

        Raises:
            InputError: y is nothing this model can restore: finite images of a size it takes.
        """
        y = problem.y
        if not y.is_floating_point():
            raise InputError(f"measurements of type {y.dtype}; expected floats on the [0, 1] scale")
        if y.ndim < 2 or len(y) == 0:
            raise InputError(f"measurements of shape {tuple(y.shape)}; expected (B, 3, H, W) with B >= 1")
        if not bool(y.isfinite().all()):
            rows = (~y.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist()
            which = f"measurements {rows}" if len(y) > 1 else "the measurement"
            raise InputError(f"NaN or infinite values in {which}; expected finite numbers")
        check_length(problem)
        if y.is_inference():  # what is made in inference mode has no gradients
            problem = replace(problem, y=y.clone())
        problem = problem.to(self.device, torch.float32)
        image = problem.image
        low, high = float(image.min()), float(image.max())
        if low < -RANGE or high > 1 + RANGE:
            raise InputError(f"measurements range from {low:.3g} to {high:.3g}; expected the [0, 1] scale plus noise")
        self.prior.latent_shape((image.shape[2], image.shape[3]))
        return problem

    @torch.no_grad()
    def severity(self, y: Tensor, batch_size: int = 16) -> Severity:
        """How damaged is each image? y (B, 3, H, W) on the [0, 1] scale.

        Raises:
            InputError: no severity encoder, or a y that it cannot take.
        """
        if self.severity_encoder is None:
            raise InputError("this model has no severity encoder; train one with `flashdiffusion train severity`")
        parts = [self.severity_encoder(part) for part in self.check(Problem(y)).image.split(batch_size)]
        return Severity(torch.cat([p.z_hat for p in parts]), torch.cat([p.var for p in parts]))

    def __call__(
        self,
        y: Given,
        physics: Any,
        *,
        method: str | None = None,
        solver: str | Solver | None = None,
        start: str | StartRule | None = None,
        seed: int = 0,
        ids: Sequence[str] | None = None,
        num_samples: int = 1,
        settings: Settings | None = None,
        max_in_flight: int | None = None,
        progress: bool = False,
        callback: Callback | None = None,
        **hyperparameters: Any,
    ) -> Restoration:
        """Restore measurements. Images that cannot be restored are warned of and listed in the result's `failed`.

        Args:
            y: measurements on the [0, 1] scale, images (B, 3, H, W) for most physics; noise may leave the range. Or
                one image, grey or RGB: a tensor (C, H, W), a numpy array (channels last or first; uint8 is 0 to 255),
                a Pillow image, a path; or a list of these. Grey images come back grey.
            physics: the degradation that made y; ours, DeepInverse's, any object with `A(x)`, or a function.
            method, solver, start, seed, settings, max_in_flight, progress, callback, hyperparameters: see `stream`.
            ids: a name per image, by default its position; an image's result depends on its id, not on
                what else is in the batch.
            num_samples: posterior samples of each image, see `Restoration.samples`; the first is what one would be.

        Raises:
            InputError: y of the wrong shape or with NaN, a size the prior cannot take, unknown names, or no image
                that could be restored.
        """
        y, grey = as_measurements(y, physics)
        physics = as_physics(physics, len(y))
        problem = self.check(Problem(y, physics))
        height, width = problem.image.shape[2:]
        note_range(y, physics)
        if num_samples < 1:
            raise InputError(f"num_samples is {num_samples}; expected at least 1")
        names = [str(i) for i in range(len(y))] if ids is None else list(ids)
        whole = Batch.of(names, problem)
        parts = self.stream(
            [whole if num_samples == 1 else _repeated(whole, num_samples)],
            method=method,
            solver=solver,
            start=start,
            seed=seed,
            settings=settings,
            max_in_flight=max_in_flight,
            progress=progress,
            callback=callback,
            **hyperparameters,
        )
        restoration = Restoration.collect(list(parts), (height, width))
        if restoration.failed:
            named = "; ".join(f"{restoration.ids[row]}: {reason}" for row, reason in restoration.failed.items())
            warnings.warn(f"{len(restoration.failed)} of {len(restoration)} images failed: {named}", stacklevel=2)
        restoration = restoration if num_samples == 1 else restoration.sampled(num_samples)
        return restoration.grey() if grey else restoration

    def stream(
        self,
        batches: Iterable[Batch],
        *,
        method: str | None = None,
        solver: str | Solver | None = None,
        start: str | StartRule | None = None,
        seed: int = 0,
        settings: Settings | None = None,
        max_in_flight: int | None = None,
        progress: bool = False,
        on_step: Callable[[int], None] | None = None,
        callback: Callback | None = None,
        **hyperparameters: Any,
    ) -> Iterator[Restored]:
        """Restore any number of measurements; each image is given as soon as it is done.

        Batches are asked for as images finish, one ahead of need, so that memory does not grow with their number.
        They may hold different sizes and physics. Images that cannot be restored are given with the reason; the
        others go on. What an image becomes depends on its id and the seed, not on batches, max_in_flight or order.

        Args:
            batches: measurements, a few dozen at a time; an iterator that reads them is run in a thread of its own.
                What it raises is raised here after the images that came before.
            method: start and solver in one, such as "flash(psld)", in place of both.
            solver: a name of `methods.SOLVERS` ("latent-dps", "gml-dps", "psld", "resample", "dps", "prior") or a
                solver object; by default "latent-dps", or "dps" with a model of pixels.
            start: a name of `methods.STARTS` ("flash": as few steps as the image needs, "noise": all steps,
                "inversion", "ccdf", "estimate", "regression"), or a start rule. By default "flash", or "noise", with
                a warning, if the model has no severity encoder.
            seed: with an image's id it determines the image's random numbers.
            settings: hyperparameters of batches without settings of their own, in place of the model's own, which
                are taken for the rest: by the batch's kind of physics, per image where it is `Mixed`.
            max_in_flight: images in flight at a time, >= 1; by default as many as fit into free memory and bring speed.
            progress: show a progress bar, if standard error is a terminal.
            on_step: called with the number of images that each step moved.
            callback: for a live view: `callback(step, estimate, ids)` is called after each step with its number, what
                the images that it moved would be if they ended now (n, 3, H, W), decoded, in [0, 1], and their ids.
            hyperparameters: single settings by name, such as `guidance=4, steps=100`, in place of those in `settings`.

        Raises:
            InputError: at once, not at the first image: unknown names, settings out of range, max_in_flight < 1.
        """
        solver, start = self._chosen(method, solver, start)
        if hyperparameters:
            own = Settings(**hyperparameters)
            settings = own if settings is None else settings | own
            batches = (one if one.settings is None else replace(one, settings=one.settings | own) for one in batches)
        self.method(solver, start, Settings() if settings is None else settings)
        Capacity(max_in_flight)
        return self._stream(batches, solver, start, seed, settings, max_in_flight, progress, on_step, callback)

    def _chosen(
        self, method: str | None, solver: str | Solver | None, start: str | StartRule | None
    ) -> tuple[str | Solver, str | StartRule]:
        """Solver and start, as given or by default."""
        if method is not None:
            if solver is not None or start is not None:
                raise InputError(f"method {method!r} beside a solver or a start; expected one or the other")
            start, solver = parse_method(method)
        if solver is None:
            solver = "dps" if isinstance(self.prior.autoencoder, IdentityAutoencoder) else "latent-dps"
        if start is None and self.severity_encoder is None and not self._from_noise:
            self._from_noise = True
            warnings.warn(
                "this model has no severity encoder: images start from noise and make all steps; train one with "
                "`flashdiffusion train severity`",
                stacklevel=4,
            )
        return solver, start or ("flash" if self.severity_encoder is not None else "noise")

    @torch.inference_mode(False)  # a caller's inference mode would leave no gradients for the guidance
    def _stream(
        self,
        batches: Iterable[Batch],
        solver: str | Solver,
        start: str | StartRule,
        seed: int,
        settings: Settings | None,
        max_in_flight: int | None,
        progress: bool,
        on_step: Callable[[int], None] | None,
        callback: Callback | None,
    ) -> Iterator[Restored]:
        if start == "regression":
            yield from regressed(self, batches, max_in_flight)
            return
        with tqdm(total=0, unit="step", desc="restoring", delay=2, disable=None if progress else True) as bar:

            def plan(steps: int) -> None:
                bar.total += steps

            def moved(images: int) -> None:
                bar.update(images)
                if on_step is not None:
                    on_step(images)

            stream = Stream(
                self, solver, start, seed, settings, max_in_flight, plan, moved, self.compiled, callback=callback
            )
            yield from stream.run(batches)

    def method(self, solver: str | Solver, start: str | StartRule, settings: Settings) -> tuple[Solver, StartRule]:
        """Solver and start rule by their names; objects are given back.

        Raises:
            InputError: unknown names, a network that the model lacks, settings out of range.
        """
        engine = solver
        if isinstance(engine, str):
            engine = make_solver(engine, self.prior, settings, self.distilled_decoder)
        if not isinstance(start, str):
            return engine, start
        return engine, make_start(start, self.prior, self.severity_encoder, settings, self.regressor)


def _embedded(source: str | Path | None) -> Traversable | None:
    """The folder of an embedded model: the default, or one by its name, unless there is a folder of that name."""
    name = DEFAULT_MODEL if source is None else str(source)
    folder = files("flashdiffusion") / "assets" / name
    named = "/" not in name and not Path(name).exists() and folder.is_dir()
    return folder if source is None or named else None


def _repeated(batch: Batch, count: int) -> Batch:
    """Each image `count` times under names of its own, one round after the other; the first keeps its name."""
    problem = batch.problem.take(torch.arange(len(batch.y)).repeat(count))
    ids = [name if n == 0 else f"{name}#{n}" for n in range(count) for name in batch.ids]
    return Batch.of(ids, problem, batch.settings)


def _published(name: str) -> Presets:
    """Settings of a published checkpoint, by the images that its name says."""
    return Presets.published("LSUN" if "lsun" in name.lower() else "FFHQ")
