"""FlashPipeline: what a user holds."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from tqdm import tqdm

from flashdiffusion.data import ensure_directory
from flashdiffusion.engine.batch import Batch, Restored, check_length
from flashdiffusion.engine.capacity import Capacity
from flashdiffusion.engine.cost import Costs
from flashdiffusion.engine.stream import Stream, regressed
from flashdiffusion.errors import CheckpointError, InputError
from flashdiffusion.methods import Settings, make_solver, make_start
from flashdiffusion.pipeline.restoration import Restoration
from flashdiffusion.priors import (
    INDEX,
    DistilledDecoder,
    IdentityAutoencoder,
    LatentPrior,
    find_published,
    load_component,
    load_distilled_decoder,
    read_json,
    resolve_folder,
    save_component,
    write_index,
)
from flashdiffusion.regression import Regressor
from flashdiffusion.severity import Severity, SeverityEncoder
from flashdiffusion.solvers import Problem, Solver, StartRule
from flashdiffusion.types import Physics

DEFAULT_MODEL = "faces-128"
# How far noise may carry measurements beyond [0, 1]; images on a 0 to 255 scale lie far outside.
RANGE = 3.0


class FlashPipeline:
    """Sample-adaptive restoration: severity encoder, start rule, latent solver, decoder.

    Args:
        prior: the latent diffusion prior.
        severity_encoder: None if only the baseline start (`start="noise"`) will be used.
        sample_size: side in pixels of the images that the model was trained on, if known.
        regressor: a supervised restoration network, for the starts "ccdf" and "regression".
        distilled_decoder: a small stand-in for the decoder, for the gradient, see `Gradient`.
    """

    def __init__(
        self,
        prior: LatentPrior,
        severity_encoder: SeverityEncoder | None = None,
        sample_size: int | None = None,
        regressor: Regressor | None = None,
        distilled_decoder: DistilledDecoder | None = None,
    ) -> None:
        self.prior = prior
        self.distilled_decoder = distilled_decoder.requires_grad_(False).eval() if distilled_decoder else None
        self.regressor = regressor.requires_grad_(False).eval() if regressor else None
        self.severity_encoder = severity_encoder.requires_grad_(False).eval() if severity_encoder else None
        self.sample_size = sample_size
        self.compiled = False
        self.costs = Costs(prior, self.severity_encoder)

    # -- loading and saving -----------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, source: str | Path | None = None, revision: str | None = None) -> Self:
        """Load a model: the embedded default, an embedded one by name, a folder, or a hub id.

        A folder is in diffusers' layout: `autoencoder` (or `vqvae`, `vae`), `denoiser` (or `unet`), `scheduler`,
        and, for Flash starts, `severity_encoder`. Published checkpoints (docs/checkpoints.md) give a prior alone. Code
        in pickled files is not executed.

        Raises:
            CheckpointError: nothing there, or another layout.
        """
        name = DEFAULT_MODEL if source is None else str(source)
        embedded = files("flashdiffusion") / "assets" / name
        if source is None or ("/" not in name and not Path(name).exists() and embedded.is_dir()):
            with as_file(embedded) as folder:
                return cls._from_folder(folder)
        if find_published(name) is not None:
            prior = LatentPrior.from_pretrained(name)
            return cls(prior, sample_size=prior.sample_size)
        if "/" not in name and not Path(name).exists():
            expected = f"{DEFAULT_MODEL}, a folder in diffusers' layout, or a hub id owner/name"
            raise CheckpointError(f"no model {name!r}; expected {expected}")
        return cls._from_folder(resolve_folder(name, revision))

    @classmethod
    def _from_folder(cls, folder: Path) -> Self:
        index = read_json(folder / INDEX) if (folder / INDEX).exists() else {}
        prior = LatentPrior.from_pretrained(folder)
        encoder = None
        if (folder / "severity_encoder").is_dir():
            encoder = load_component(SeverityEncoder, folder / "severity_encoder")
            if encoder.config.latent_channels != prior.autoencoder.channels:
                raise CheckpointError(
                    f"{folder}: severity encoder of {encoder.config.latent_channels} latent channels beside an "
                    f"autoencoder of {prior.autoencoder.channels}; expected equal numbers"
                )
        regressor = load_component(Regressor, folder / "regressor") if (folder / "regressor").is_dir() else None
        distilled = None
        if (folder / "distilled_decoder").is_dir():
            distilled = load_distilled_decoder(folder / "distilled_decoder", prior.autoencoder)
        return cls(prior, encoder, index.get("sample_size", prior.sample_size if index else None), regressor, distilled)

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

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move to a device or precision; returns self."""
        for module in (self.prior, self.severity_encoder, self.regressor, self.distilled_decoder):
            if module is not None and device is not None:
                module.to(device=device)
            if module is not None and dtype is not None:
                torch.nn.Module.to(module, dtype=dtype)  # diffusers' own warns of layers that these models lack
        return self

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

    def check(self, y: Tensor, physics: Physics | None = None) -> None:
        """Raise InputError unless y is something this model can restore: finite images of a size it takes.

        With a physics whose measurements are no images, what it makes of them (`Problem.image`) is checked.
        """
        if not y.is_floating_point():
            raise InputError(f"measurements of type {y.dtype}; expected floats on the [0, 1] scale")
        if y.ndim < 2 or len(y) == 0:
            raise InputError(f"measurements of shape {tuple(y.shape)}; expected (B, 3, H, W) with B >= 1")
        if not bool(y.isfinite().all()):
            rows = (~y.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist()
            which = f"measurements {rows}" if len(y) > 1 else "the measurement"
            raise InputError(f"NaN or infinite values in {which}; expected finite numbers")
        image = y if physics is None else Problem(y, physics).to(self.prior.device).image()
        if image.ndim != 4 or image.shape[1] != 3:
            raise InputError(f"measurements of shape {tuple(y.shape)}; expected (B, 3, H, W) with B >= 1")
        check_length(y, physics)
        low, high = float(image.min()), float(image.max())
        if low < -RANGE or high > 1 + RANGE:
            raise InputError(f"measurements range from {low:.3g} to {high:.3g}; expected the [0, 1] scale plus noise")
        self.prior.latent_shape((image.shape[2], image.shape[3]))

    @torch.no_grad()
    def severity(self, y: Tensor, batch_size: int = 16) -> Severity:
        """How damaged is each image? y (B, 3, H, W) on the [0, 1] scale.

        Raises:
            InputError: no severity encoder, or a y that it cannot take.
        """
        if self.severity_encoder is None:
            raise InputError("this model has no severity encoder; train one with `flashdiffusion train severity`")
        self.check(y)
        parts = [self.severity_encoder(part) for part in y.to(self.prior.device).float().split(batch_size)]
        return Severity(torch.cat([p.z_hat for p in parts]), torch.cat([p.var for p in parts]))

    def __call__(
        self,
        y: Tensor,
        physics: Physics,
        *,
        solver: str | Solver | None = None,
        start: str | StartRule = "flash",
        seed: int = 0,
        ids: Sequence[str] | None = None,
        settings: Settings | None = None,
        max_in_flight: int | None = None,
        progress: bool = False,
    ) -> Restoration:
        """Restore measurements.

        Args:
            y: measurements on the [0, 1] scale, images (B, 3, H, W) for most physics; noise may leave the range.
            physics: the degradation that made y; ours, DeepInverse's, or any object with `A(x)`.
            solver, start, seed, settings, max_in_flight, progress: see `stream`.
            ids: a name per image, by default its position; an image's result depends on its id, not on
                what else is in the batch.

        Raises:
            InputError: y of the wrong shape or with NaN, a size the prior cannot take, unknown names, or no image
                that could be restored.
        """
        self.check(y, physics)
        batch = Batch([str(i) for i in range(len(y))] if ids is None else list(ids), y, physics, settings)
        parts = self.stream(
            [batch],
            solver=solver,
            start=start,
            seed=seed,
            settings=settings,
            max_in_flight=max_in_flight,
            progress=progress,
        )
        image = Problem(y, physics).to(self.prior.device).image()
        return Restoration.collect(list(parts), (image.shape[2], image.shape[3]))

    def stream(
        self,
        batches: Iterable[Batch],
        *,
        solver: str | Solver | None = None,
        start: str | StartRule = "flash",
        seed: int = 0,
        settings: Settings | None = None,
        max_in_flight: int | None = None,
        progress: bool = False,
        on_step: Callable[[int], None] | None = None,
    ) -> Iterator[Restored]:
        """Restore any number of measurements; each image is given as soon as it is done.

        Batches are asked for as images finish, one ahead of need, so that memory does not grow with their number.
        They may hold different sizes and physics. Images that cannot be restored are given with the reason; the
        others go on. What an image becomes depends on its id and the seed, not on batches, max_in_flight or order.

        Args:
            batches: measurements, a few dozen at a time; an iterator that reads them is run in a thread of its own.
            solver: a name of `methods.SOLVERS` ("latent-dps", "gml-dps", "psld", "resample", "dps", "prior") or a
                solver object; by default "latent-dps", or "dps" with a model of pixels.
            start: a name of `methods.STARTS` ("flash": as few steps as the image needs, "noise": all steps,
                "inversion", "ccdf", "estimate", "regression"), or a start rule.
            seed: with an image's id it determines the image's random numbers.
            settings: hyperparameters of batches without settings of their own; by default those tuned for the embedded
                model on a batch's kind of physics.
            max_in_flight: images in flight at a time, >= 1; by default as many as fit into free memory and bring speed.
            progress: show a progress bar, if standard error is a terminal.
            on_step: called with the number of images that each step moved.

        Raises:
            InputError: unknown names, settings out of range, max_in_flight < 1.
        """
        if solver is None:
            solver = "dps" if isinstance(self.prior.autoencoder, IdentityAutoencoder) else "latent-dps"
        # Names and settings that no image can use fail here, once.
        self.method(solver, start, Settings() if settings is None else settings)
        if start == "regression":
            Capacity(max_in_flight)
            yield from regressed(self, batches, max_in_flight)
            return
        with tqdm(total=0, unit="step", desc="restoring", delay=2, disable=None if progress else True) as bar:

            def plan(steps: int) -> None:
                bar.total += steps

            def moved(images: int) -> None:
                bar.update(images)
                if on_step is not None:
                    on_step(images)

            yield from Stream(self, solver, start, seed, settings, max_in_flight, plan, moved, self.compiled).run(
                batches
            )

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
