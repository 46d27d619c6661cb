"""FlashPipeline: what a user holds."""

import copy
import time
from collections import Counter
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
from flashdiffusion.physics import BatchedPhysics
from flashdiffusion.presets import preset_for
from flashdiffusion.priors import (
    INDEX,
    IdentityAutoencoder,
    LatentPrior,
    find_published,
    load_component,
    read_json,
    resolve_folder,
    save_component,
    write_index,
)
from flashdiffusion.regression import Regressor
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
    arithmetic, float32 (B,).
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
        regressor: a supervised restoration network, for the starts "ccdf" and "regression".
    """

    def __init__(
        self,
        prior: LatentPrior,
        severity_encoder: SeverityEncoder | None = None,
        sample_size: int | None = None,
        regressor: Regressor | None = None,
    ) -> None:
        self.prior = prior
        self.regressor = regressor.requires_grad_(False).eval() if regressor else None
        self.severity_encoder = severity_encoder.requires_grad_(False).eval() if severity_encoder else None
        self.sample_size = sample_size
        self._gflop: dict[tuple[object, ...], float] = {}

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
        return cls(prior, encoder, index.get("sample_size", prior.sample_size if index else None), regressor)

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
        write_index(out, self.sample_size)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move to a device or precision; returns self."""
        for module in (self.prior, self.severity_encoder, self.regressor):
            if module is not None and device is not None:
                module.to(device=device)
            if module is not None and dtype is not None:
                torch.nn.Module.to(module, dtype=dtype)  # diffusers' own warns of layers that these models lack
        return self

    # -- use --------------------------------------------------------------------------------------------

    def check(self, y: Tensor, physics: Physics | None = None) -> None:
        """Raise InputError unless y is something this model can restore: finite pictures of a size it takes.

        With a physics whose measurements are no pictures, what it makes of them (`Problem.picture`) is checked.
        """
        if not y.is_floating_point():
            raise InputError(f"measurements of type {y.dtype}; expected floats on the [0, 1] scale")
        if y.ndim < 2 or len(y) == 0:
            raise InputError(f"measurements of shape {tuple(y.shape)}; expected (B, 3, H, W) with B >= 1")
        if not bool(y.isfinite().all()):
            rows = (~y.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist()
            raise InputError(f"NaN or infinite values in measurements {rows}; expected finite numbers")
        picture = y if physics is None else Problem(y, physics).to(self.prior.device).picture()
        if picture.ndim != 4 or picture.shape[1] != 3:
            raise InputError(f"measurements of shape {tuple(y.shape)}; expected (B, 3, H, W) with B >= 1")
        if isinstance(physics, Sized) and len(physics) != len(y):
            raise InputError(f"physics has parameters for {len(physics)} pictures; y has {len(y)}")
        low, high = float(picture.min()), float(picture.max())
        if low < -RANGE or high > 1 + RANGE:
            raise InputError(f"measurements range from {low:.3g} to {high:.3g}; expected the [0, 1] scale plus noise")
        self.prior.latent_shape((picture.shape[2], picture.shape[3]))

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
        solver: str | Solver | None = None,
        start: str | StartRule = "flash",
        seed: int = 0,
        ids: Sequence[str] | None = None,
        settings: Settings | None = None,
        capacity: int = 16,
        progress: bool = False,
    ) -> Restoration:
        """Restore measurements.

        Args:
            y: measurements on the [0, 1] scale, pictures (B, 3, H, W) for most physics; noise may leave the range.
            physics: the degradation that made y; ours, DeepInverse's, or any object with `A(x)`.
            solver: a name of `methods.SOLVERS` ("latent-dps", "gml-dps", "psld", "resample", "dps", "prior") or a
                solver object; by default "latent-dps", or "dps" with a model of pixels.
            start: a name of `methods.STARTS` ("flash": as few steps as the picture needs, "noise": all steps,
                "inversion", "ccdf", "estimate", "regression"), or a start rule.
            seed: with a picture's id it determines the picture's random numbers.
            ids: a name per picture, by default its position; a picture's result depends on its id, not on
                what else is in the batch.
            settings: hyperparameters; by default those tuned for the embedded model on this kind of physics.
            capacity: pictures in flight at a time, >= 1; bounds the memory.
            progress: show a progress bar.

        Raises:
            InputError: y of the wrong shape or with NaN, a size the prior cannot take, unknown names.
        """
        self.check(y, physics)
        if capacity < 1:
            raise InputError(f"capacity is {capacity}; expected at least 1")
        names = [str(i) for i in range(len(y))] if ids is None else list(ids)
        if len(names) != len(y):
            raise InputError(f"{len(names)} ids for {len(y)} pictures; expected one per picture")
        if solver is None:
            solver = "dps" if isinstance(self.prior.autoencoder, IdentityAutoencoder) else "latent-dps"
        if settings is None:
            settings = preset_for(
                physics,
                start if isinstance(start, str) else "flash",
                solver if isinstance(solver, str) else "latent-dps",
            )
        engine = make_solver(solver, self.prior, settings) if isinstance(solver, str) else solver
        rule = make_start(start, self.severity_encoder, settings, self.regressor) if isinstance(start, str) else start

        problem = Problem(y.float(), physics).to(self.prior.device)
        engine.check(problem)
        pictures = problem.picture()
        if start == "regression" and self.regressor is not None:
            return _regress(self.regressor, pictures, capacity)
        shape = self.prior.latent_shape((pictures.shape[2], pictures.shape[3]))
        generators = [picture_generator(seed, name, "sampling") for name in names]
        noise = torch.stack([torch.randn(shape, generator=g) for g in generators]).to(self.prior.device)
        began = time.perf_counter()
        parts = zip(pictures.split(capacity), noise.split(capacity), strict=True)
        first = Start.concatenate([rule(part, self.prior, engine.grid, own) for part, own in parts])
        images = torch.empty(pictures.shape, dtype=torch.float32)
        nfe = torch.zeros(len(y), dtype=torch.int64) if first.nfe is None else first.nfe.cpu()
        work: list[Counter[str]] = [Counter() for _ in names]
        with tqdm(total=int(first.k.sum()), unit="step", desc="restoring", delay=2, disable=not progress) as bar:
            for outcome in run(first.z, first.k, problem, engine, generators, capacity, bar.update):
                images[outcome.index] = self.prior.decode(outcome.z[None])[0].clamp(0, 1).cpu()
                nfe[outcome.index] += outcome.nfe
                work[outcome.index] = outcome.work
        # The last picture has been copied to the CPU, so that a GPU has finished its work too.
        elapsed = time.perf_counter() - began
        share = self._cost(problem, pictures, rule, first, engine, work)
        var = first.severity.var.float().cpu() if first.severity else None
        return Restoration(images, var, first.k.cpu(), nfe, share, elapsed * share / share.sum())

    def _cost(
        self,
        problem: Problem,
        pictures: Tensor,
        rule: StartRule,
        first: Start,
        solver: Solver,
        work: Sequence[Counter[str]],
    ) -> Tensor:
        """GFLOP per picture: its start, the solver's units it ran, last decode; each counted once per kind and size."""
        costs = []
        for row, own in enumerate(work):
            index = torch.tensor([row], device=self.prior.device)
            inverted = None if first.nfe is None else int(first.nfe[row])
            costs.append(
                self._cost_of(problem.take(index), pictures[index], first.z[index], rule, inverted, solver, own)
            )
        return torch.tensor(costs)

    def _cost_of(
        self,
        one: Problem,
        picture: Tensor,
        z: Tensor,
        rule: StartRule,
        inverted: int | None,
        solver: Solver,
        work: Counter[str],
    ) -> float:
        kind = (type(rule), solver.name, kind_of(one.physics), one.y.shape)
        cost = self._counted(("last decode", z.shape), lambda: self.prior.decode(z))
        if inverted is None:
            cost += self._counted(("start", *kind), lambda: rule(picture, self.prior, solver.grid, z))
        else:  # how far an inversion runs differs from picture to picture
            i = torch.ones(1, dtype=torch.int64, device=z.device)
            encoder = self.severity_encoder
            cost += self._counted(("severity", picture.shape), lambda: encoder and encoder(picture))
            cost += inverted * self._counted(("denoise", z.shape), lambda: self.prior.denoise(z, i))
        units = solver.units(z, one)
        return cost + sum(count * self._counted((name, *kind), units[name]) for name, count in work.items())

    def _counted(self, key: tuple[object, ...], call: Callable[[], object]) -> float:
        """GFLOP of a call, counted once per key."""
        if key not in self._gflop:
            self._gflop[key] = count_gflop(call)
        return self._gflop[key]


def kind_of(physics: Physics) -> object:
    """What the arithmetic of a physics depends on, beside the size: its operators."""
    if isinstance(physics, BatchedPhysics):
        return str(physics.describe()[0]["physics"])
    return type(getattr(physics, "physics", physics))


def _regress(regressor: Regressor, pictures: Tensor, capacity: int) -> Restoration:
    """The regressor's own output: no latents, no steps."""
    began = time.perf_counter()
    images = torch.cat([regressor(part).float().clamp(0, 1).cpu() for part in pictures.split(capacity)])
    elapsed = time.perf_counter() - began
    none = torch.zeros(len(images), dtype=torch.int64)
    gflop = torch.full((len(images),), count_gflop(lambda: regressor(pictures[:1])))
    return Restoration(images, None, none, none.clone(), gflop, torch.full((len(images),), elapsed / len(images)))
