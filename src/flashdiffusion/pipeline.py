"""FlashPipeline: what a user holds."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from tqdm import tqdm

from flashdiffusion.data import ensure_directory, write_json
from flashdiffusion.errors import CheckpointError, InputError
from flashdiffusion.methods import Settings, make_solver, make_start
from flashdiffusion.metrics import count_gflop
from flashdiffusion.physics.tasks import picture_generator
from flashdiffusion.presets import preset_for
from flashdiffusion.priors import LatentPrior, load_component, read_json, resolve_folder
from flashdiffusion.sampling import LatentDPS, Problem, Solver, StartRule, run
from flashdiffusion.severity import Severity, SeverityEncoder
from flashdiffusion.types import Physics

DEFAULT_MODEL = "faces-128"
INDEX = "model_index.json"


@dataclass(frozen=True)
class Restoration:
    """Restored pictures; every field has one row per picture.

    images: (B, 3, H, W) in [0, 1]. severity: σ̂² in scaled latent units, None if no severity encoder was used.
    start: grid position of the start. nfe: denoiser evaluations. gflop: arithmetic. seconds: share of the time.
    """

    images: Tensor
    severity: Tensor | None
    start: Tensor
    nfe: Tensor
    gflop: Tensor
    seconds: Tensor

    def row(self, i: int) -> dict[str, Any]:
        """Everything but the picture of row i, as plain numbers."""
        return {
            "severity": None if self.severity is None else float(self.severity[i]),
            "start": int(self.start[i]),
            "nfe": int(self.nfe[i]),
            "gflop": float(self.gflop[i]),
            "seconds": float(self.seconds[i]),
        }


class FlashPipeline:
    """Sample-adaptive restoration: severity encoder, start rule, latent solver, decoder.

    Args:
        prior: the latent diffusion prior.
        severity_encoder: None if only the baseline start (`start="noise"`) will be used.
        sample_size: side in pixels of the pictures that the model was trained on, if known.
    """

    def __init__(
        self,
        prior: LatentPrior,
        severity_encoder: SeverityEncoder | None = None,
        sample_size: int | None = None,
    ) -> None:
        self.prior = prior
        self.severity_encoder = severity_encoder.requires_grad_(False).eval() if severity_encoder else None
        self.sample_size = sample_size
        self._gflop: dict[tuple[object, ...], float] = {}

    # -- loading and saving -----------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, source: str | Path | None = None, revision: str | None = None) -> Self:
        """Load a model: the embedded default, an embedded one by name, a folder, or a hub id.

        A folder is in diffusers' layout: `autoencoder` (or `vqvae`, `vae`), `denoiser` (or `unet`), `scheduler`,
        and, for Flash starts, `severity_encoder`. Only safetensors are read.

        Raises:
            CheckpointError: nothing there, or another layout.
        """
        source = DEFAULT_MODEL if source is None else source
        embedded = files("flashdiffusion") / "assets" / str(source)
        if "/" not in str(source) and not Path(source).is_dir() and embedded.is_dir():
            with as_file(embedded) as folder:
                return cls._from_folder(folder)
        return cls._from_folder(resolve_folder(source, revision))

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
        return cls(prior, encoder, index.get("sample_size"))

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
            self.severity_encoder.save_pretrained(out / "severity_encoder")
        write_json(out / INDEX, {"_class_name": "FlashPipeline", "sample_size": self.sample_size})

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move to a device or precision; returns self."""
        for module in (self.prior, self.severity_encoder):
            if module is not None and device is not None:
                module.to(device=device)
            if module is not None and dtype is not None:
                module.to(dtype=dtype)
        return self

    # -- use --------------------------------------------------------------------------------------------

    def check(self, y: Tensor) -> None:
        """Raise InputError unless y is something this model can restore: (B, 3, H, W), finite, of a size it takes."""
        if y.ndim != 4 or y.shape[1] != 3 or len(y) == 0:
            raise InputError(f"measurements of shape {tuple(y.shape)}; expected (B, 3, H, W) with B >= 1")
        if not y.is_floating_point():
            raise InputError(f"measurements of type {y.dtype}; expected floats on the [0, 1] scale")
        if not bool(y.isfinite().all()):
            rows = (~y.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist()
            raise InputError(f"NaN or infinite values in measurements {rows}; expected finite numbers")
        self.prior.latent_shape((y.shape[2], y.shape[3]))

    @torch.no_grad()
    def severity(self, y: Tensor, batch_size: int = 16) -> Severity:
        """How damaged is each picture? y (B, 3, H, W) on the [0, 1] scale.

        Raises:
            InputError: no severity encoder, or a y that it cannot take.
        """
        if self.severity_encoder is None:
            raise InputError("this model has no severity encoder; train one with `flashdiffusion train severity`")
        self.check(y)
        parts = [self.severity_encoder(part) for part in y.to(self.prior.device, self.prior.dtype).split(batch_size)]
        return Severity(torch.cat([p.z_hat for p in parts]), torch.cat([p.var for p in parts]))

    @torch.no_grad()
    def __call__(
        self,
        y: Tensor,
        physics: Physics,
        *,
        solver: str | Solver = "latent-dps",
        start: str | StartRule = "flash",
        seed: int = 0,
        ids: Sequence[str] | None = None,
        settings: Settings | None = None,
        capacity: int = 16,
        progress: bool = False,
    ) -> Restoration:
        """Restore measurements.

        Args:
            y: measurements (B, 3, H, W) on the [0, 1] scale; noise may leave it.
            physics: the degradation that made y; ours, DeepInverse's, or any object with `A(x)`.
            solver: "latent-dps", "prior", or a solver object.
            start: "flash" (as few steps as the picture needs), "noise" (all steps), "estimate" (decode the severity
                encoder's estimate, no steps), or a start rule.
            seed: with a picture's id it determines the picture's random numbers.
            ids: a name per picture, by default its position; a picture's result depends on its id, not on
                what else is in the batch.
            settings: hyperparameters; by default those tuned for the embedded model on this kind of physics.
            capacity: pictures in flight at a time; bounds the memory.
            progress: show a progress bar.

        Raises:
            InputError: y of the wrong shape or with NaN, a size the prior cannot take, unknown names.
        """
        self.check(y)
        names = [str(i) for i in range(len(y))] if ids is None else list(ids)
        if len(names) != len(y):
            raise InputError(f"{len(names)} ids for {len(y)} pictures; expected one per picture")
        settings = preset_for(physics) if settings is None else settings
        engine = make_solver(solver, self.prior, settings) if isinstance(solver, str) else solver
        rule = make_start(start, self.severity_encoder, settings) if isinstance(start, str) else start

        y = y.to(self.prior.device, self.prior.dtype)
        shape = self.prior.latent_shape((y.shape[2], y.shape[3]))
        generators = [picture_generator(seed, name, "sampling") for name in names]
        noise = torch.stack([torch.randn(shape, generator=g) for g in generators]).to(y)
        images = torch.empty(y.shape, dtype=torch.float32)
        began = time.perf_counter()
        first = rule(y, self.prior, engine.grid, noise)
        seconds = torch.full((len(y),), (time.perf_counter() - began) / len(y))
        nfe = torch.zeros(len(y), dtype=torch.int64)
        with tqdm(total=int(first.k.sum()), unit="step", desc="restoring", delay=2, disable=not progress) as bar:
            for outcome in run(first.z, first.k, Problem(y, physics), engine, generators, capacity, bar.update):
                began = time.perf_counter()
                images[outcome.index] = self.prior.decode(outcome.z[None])[0].float().clamp(0, 1).cpu()
                nfe[outcome.index] = outcome.nfe
                seconds[outcome.index] += outcome.seconds + time.perf_counter() - began
        var = first.severity.var.cpu() if first.severity else None
        gflop = self._cost(y[:1], first.severity is not None, engine, Problem(y, physics), nfe)
        return Restoration(images, var, first.k.cpu(), nfe, gflop, seconds)

    def _cost(self, y: Tensor, encoded: bool, solver: Solver, problem: Problem, nfe: Tensor) -> Tensor:
        """GFLOP per picture: severity encoder, NFE solver steps, last decode; counted once per kind and size."""
        device = y.device
        z = torch.zeros(1, *self.prior.latent_shape((y.shape[2], y.shape[3])), device=device, dtype=y.dtype)
        one = torch.ones(1, dtype=torch.int64, device=device)

        def cached(name: object, call: Callable[[], object]) -> float:
            key = (name, tuple(y.shape))
            if key not in self._gflop:
                self._gflop[key] = count_gflop(call)
            return self._gflop[key]

        fixed = cached("decode", lambda: self.prior.decode(z))
        if encoded and (encoder := self.severity_encoder) is not None:
            fixed += cached("severity", lambda: encoder(y))
        if not nfe.any():
            return torch.full((len(nfe),), fixed)
        kind = (type(solver), isinstance(solver, LatentDPS) and solver.eta == 0)
        single = problem.take(torch.zeros(1, dtype=torch.int64, device=device))
        step = cached(kind, lambda: solver.step(z, one, single, torch.zeros_like(z)))
        return fixed + nfe.float() * step
