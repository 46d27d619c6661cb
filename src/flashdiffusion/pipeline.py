"""FlashPipeline: what a user holds."""

import copy
import time
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from tqdm import tqdm

from flashdiffusion.data import ensure_directory
from flashdiffusion.errors import CheckpointError, InputError
from flashdiffusion.methods import Settings, make_solver, make_start
from flashdiffusion.metrics import count_gflop
from flashdiffusion.presets import preset_for
from flashdiffusion.priors import (
    INDEX,
    LatentPrior,
    load_component,
    read_json,
    resolve_folder,
    save_component,
    write_index,
)
from flashdiffusion.sampling import Problem, Solver, Start, StartRule, run
from flashdiffusion.seeds import picture_generator
from flashdiffusion.severity import Severity, SeverityEncoder
from flashdiffusion.types import Physics

DEFAULT_MODEL = "faces-128"
# How far noise may carry measurements beyond [0, 1]; pictures on a 0 to 255 scale lie far outside.
RANGE = 3.0


@dataclass(frozen=True)
class Restoration:
    """Restored pictures; every field is on the CPU and has one row per picture.

    images: float32 (B, 3, H, W) in [0, 1]. severity: σ̂² in scaled latent units, float32 (B,), None if no severity
    encoder was used. start: position of the start on the solver's grid, int64 (B,). nfe: denoiser evaluations run,
    int64 (B,). gflop: arithmetic spent, float32 (B,). seconds: the picture's share of the wall-clock time, by its
    steps, float32 (B,).
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
        name = DEFAULT_MODEL if source is None else str(source)
        embedded = files("flashdiffusion") / "assets" / name
        if source is None or ("/" not in name and not Path(name).exists() and embedded.is_dir()):
            with as_file(embedded) as folder:
                return cls._from_folder(folder)
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
            save_component(self.severity_encoder, out / "severity_encoder")
        write_index(out, self.sample_size)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move to a device or precision; returns self."""
        for module in (self.prior, self.severity_encoder):
            if module is not None and device is not None:
                module.to(device=device)
            if module is not None and dtype is not None:
                torch.nn.Module.to(module, dtype=dtype)  # diffusers' own warns of layers that these models lack
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
        low, high = float(y.min()), float(y.max())
        if low < -RANGE or high > 1 + RANGE:
            raise InputError(f"measurements range from {low:.3g} to {high:.3g}; expected the [0, 1] scale plus noise")
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
        parts = [self.severity_encoder(part) for part in y.to(self.prior.device).float().split(batch_size)]
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
            capacity: pictures in flight at a time, >= 1; bounds the memory.
            progress: show a progress bar.

        Raises:
            InputError: y of the wrong shape or with NaN, a size the prior cannot take, unknown names.
        """
        self.check(y)
        if isinstance(physics, Sized) and len(physics) != len(y):
            raise InputError(f"physics has parameters for {len(physics)} pictures; y has {len(y)}")
        if capacity < 1:
            raise InputError(f"capacity is {capacity}; expected at least 1")
        names = [str(i) for i in range(len(y))] if ids is None else list(ids)
        if len(names) != len(y):
            raise InputError(f"{len(names)} ids for {len(y)} pictures; expected one per picture")
        if settings is None:
            settings = preset_for(physics, start if isinstance(start, str) else "flash")
        engine = make_solver(solver, self.prior, settings) if isinstance(solver, str) else solver
        rule = make_start(start, self.severity_encoder, settings) if isinstance(start, str) else start

        problem = Problem(y.float(), physics).to(self.prior.device)
        shape = self.prior.latent_shape((y.shape[2], y.shape[3]))
        generators = [picture_generator(seed, name, "sampling") for name in names]
        noise = torch.stack([torch.randn(shape, generator=g) for g in generators]).to(self.prior.device)
        began = time.perf_counter()
        parts = zip(problem.y.split(capacity), noise.split(capacity), strict=True)
        first = Start.concatenate([rule(part, self.prior, engine.grid, own) for part, own in parts])
        images = torch.empty(y.shape, dtype=torch.float32)
        nfe = torch.zeros(len(y), dtype=torch.int64)
        with tqdm(total=int(first.k.sum()), unit="step", desc="restoring", delay=2, disable=not progress) as bar:
            for outcome in run(first.z, first.k, problem, engine, generators, capacity, bar.update):
                images[outcome.index] = self.prior.decode(outcome.z[None])[0].clamp(0, 1).cpu()
                nfe[outcome.index] = outcome.nfe
        # The last picture has been copied to the CPU, so that a GPU has finished its work too.
        elapsed = time.perf_counter() - began
        work = nfe + 1.0  # the estimate and the last decode count as one step
        var = first.severity.var.float().cpu() if first.severity else None
        gflop = self._cost(problem, first, engine, nfe)
        return Restoration(images, var, first.k.cpu(), nfe, gflop, elapsed * work / work.sum())

    def _cost(self, problem: Problem, first: Start, solver: Solver, nfe: Tensor) -> Tensor:
        """GFLOP per picture: severity encoder, NFE solver steps, last decode; counted once per kind and size."""
        row = torch.zeros(1, dtype=torch.int64, device=self.prior.device)
        one = problem.take(row)
        z = first.z[:1]

        def counted(name: str, call: Callable[[], object]) -> float:
            key = (name, type(problem.physics), one.y.shape)
            if key not in self._gflop:
                self._gflop[key] = count_gflop(call)
            return self._gflop[key]

        fixed = counted("decode", lambda: self.prior.decode(z))
        if first.severity is not None and (encoder := self.severity_encoder) is not None:
            fixed += counted("severity", lambda: encoder(one.y))
        if not nfe.any():
            return torch.full((len(nfe),), fixed)
        step = counted(solver.name, lambda: solver.step(z, row + 1, one, torch.zeros_like(z)))
        return fixed + nfe.float() * step
