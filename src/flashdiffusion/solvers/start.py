"""Where each image starts, and from what: the latent and its grid position come from one function."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from flashdiffusion.errors import InputError, UnsuitedError, unknown_name
from flashdiffusion.priors import LatentPrior
from flashdiffusion.regression import Regressor
from flashdiffusion.schedule import Grid
from flashdiffusion.severity import Severity, SeverityEncoder
from flashdiffusion.solvers.consistency import Consistency
from flashdiffusion.solvers.estimate import estimated, in_holes, starting_variance
from flashdiffusion.solvers.problem import Problem
from flashdiffusion.solvers.registry import Networks, part, register_start, setting

# c·σ̂² stays below 1, so that some of the estimate is left.
MAX_MIX = 0.999


@dataclass(frozen=True)
class Start:
    """z: start latents (B, c, h, w); k: grid positions, int64 (B,), 0 = already clean.

    severity: what was estimated, if anything. nfe: denoiser evaluations spent on the start, int64 (B,), None for none.
    image: finished images (B, 3, H, W) where k = 0, so that z is not decoded; None if z says what they are.
    excess: variance of the measurements beyond what is told, (B,), see `Problem.excess`; None if not tested.
    mismatch: by which blurs A differs from what is told, (B, J), see `mismatch.py`; None if it is believed.
    work: what was computed for an image beyond the others', as a number that stands for it, (B,); None for nothing.
    """

    z: Tensor
    k: Tensor
    severity: Severity | None = None
    nfe: Tensor | None = None
    image: Tensor | None = None
    excess: Tensor | None = None
    mismatch: Tensor | None = None
    work: Tensor | None = None


class StartRule(Protocol):
    """Gives each image of a problem its start."""

    def __call__(self, problem: Problem, prior: LatentPrior, grid: Grid, noise: Tensor) -> Start:
        """
        Args:
            problem: measurements and physics; `problem.image` shows y as images (B, 3, H, W) on the [0, 1] scale.
            noise: standard normal, the shape of the latents.
        """
        ...


@register_start("noise")
@dataclass(frozen=True)
class FromNoise:
    """The baseline of every solver: pure noise, all K steps."""

    def __call__(self, problem: Problem, prior: LatentPrior, grid: Grid, noise: Tensor) -> Start:
        return Start(noise, torch.full((len(problem),), len(grid), dtype=torch.int64, device=noise.device))


@register_start("flash", space="latents")
@dataclass(frozen=True)
class SNRMatch:
    """Flash: start from the severity encoder's ẑ, at the time whose SNR matches its σ̂².

    "paper": k = match(σ̂²), z = √(1 - cσ̂²) ẑ + √(cσ̂²) ε, with cσ̂² clamped below 1.
    "consistent": the total noise variance (1 + c) σ̂², the encoder's error and what is mixed in, serves for both:
    k = match((1 + c) σ̂²), z = a_k (ẑ + √(cσ̂²) ε). It has no ceiling on k.

    Args:
        encoder: the severity encoder.
        correction: c >= 0, the noise correction; one number for all images.
        mixing: "paper" or "consistent".
        refine: whether ẑ is first made consistent with y, with the encoder's map as its variance. Noise and map are
            tested by it.
        correct_physics: whether, with `refine`, A is tested too. One that is not what it is said to be is corrected,
            and the encoder asked again.
        consistency: how.

    Raises:
        InputError: correction negative or not finite, unknown mixing.
    """

    encoder: SeverityEncoder
    correction: float = setting(1.2, "Noise correction of the start, c.", (0.0, 0.2, 0.5, 1.2))
    mixing: str = setting("paper", "Noise mixing of a Flash start: paper or consistent.")
    refine: bool = setting(False, "Whether the estimate is made consistent with the measurement before the first step.")
    correct_physics: bool = setting(True, "Whether a physics that does not explain the measurement is corrected.")
    consistency: Consistency = part(Consistency)  # noqa: RUF009  # `part` gives a field, as dataclasses.field does

    def __post_init__(self) -> None:
        if not 0 <= self.correction < float("inf"):
            raise InputError(f"correction c is {self.correction}; expected a finite number >= 0")
        if self.mixing not in {"paper", "consistent"}:
            raise unknown_name("mixing", self.mixing, ["paper", "consistent"])

    @torch.no_grad()
    def __call__(self, problem: Problem, prior: LatentPrior, grid: Grid, noise: Tensor) -> Start:
        inside = in_holes(problem, (noise.shape[2], noise.shape[3]))
        consistency = self.consistency if self.refine else None
        known = estimated(problem, self.encoder, prior, noise, inside, consistency, self.correct_physics)
        z_hat, var = known.severity.z_hat, starting_variance(known.severity, inside)
        added = self.correction * var
        if self.mixing == "consistent":
            k = grid.match(var + added)
            abar = grid.abar[k.cpu()].to(z_hat).view(-1, 1, 1, 1)
            z = abar.sqrt() * (z_hat + added.to(z_hat).sqrt().view(-1, 1, 1, 1) * noise)
        else:
            k, mix = grid.match(var), added.clamp(max=MAX_MIX).to(z_hat).view(-1, 1, 1, 1)
            z = (1 - mix).sqrt() * z_hat + mix.sqrt() * noise
        return Start(z, k, **vars(known))


@register_start("inversion", space="latents")
@dataclass(frozen=True)
class DDIMInversion:
    """Flash by inversion: carry ẑ up to k = match(σ̂²) by deterministic DDIM steps run backwards.

    No noise is mixed in: what the denoiser takes for noise in ẑ grows with the time. The paper's final version tries
    this start; it costs k denoiser evaluations more, which count as NFE.

    Args:
        encoder: the severity encoder.
    """

    encoder: SeverityEncoder

    @torch.no_grad()
    def __call__(self, problem: Problem, prior: LatentPrior, grid: Grid, noise: Tensor) -> Start:
        inside = in_holes(problem, (noise.shape[2], noise.shape[3]))
        severity = estimated(problem, self.encoder, prior, noise, inside).severity
        k = grid.match(starting_variance(severity, inside))
        z = severity.z_hat.clone()
        abar = grid.abar.to(device=z.device, dtype=z.dtype)
        for position in range(int(k.max())):
            rows = (k > position).nonzero()[:, 0]
            # The network knows no time 0; ε at its lowest time stands in for it.
            i = max(int(grid.times[position]), 1)
            at, here, above = grid.schedule.abar[i].to(z), abar[position], abar[position + 1]
            z0 = prior.denoise(z[rows], torch.full((len(rows),), i, device=z.device))
            epsilon = (z[rows] - at.sqrt() * z0) / (1 - at).sqrt()
            clean = (z[rows] - (1 - here).sqrt() * epsilon) / here.sqrt()
            z[rows] = above.sqrt() * clean + (1 - above).sqrt() * epsilon
        return Start(z, k, severity, k.clone())


class Estimate(Protocol):
    """An estimate of the clean latents that needs no diffusion."""

    def __call__(self, problem: Problem, prior: LatentPrior) -> tuple[Tensor, Severity | None]:
        """Give clean latents (B, c, h, w) for the images of a problem, and their severity if it is known."""
        ...


@dataclass(frozen=True)
class EncodedEstimate:
    """The severity encoder's ẑ."""

    encoder: SeverityEncoder

    def __call__(self, problem: Problem, prior: LatentPrior) -> tuple[Tensor, Severity | None]:
        severity = problem.severity(self.encoder)
        return severity.z_hat, severity


@dataclass(frozen=True)
class RegressedEstimate:
    """A supervised network's restoration, encoded; with a pixel-space prior, the restoration itself."""

    regressor: Regressor

    def __call__(self, problem: Problem, prior: LatentPrior) -> tuple[Tensor, Severity | None]:
        return prior.encode(problem.seen_by(self.regressor).clamp(0, 1)), None


@register_start("ccdf")
@dataclass(frozen=True)
class Fixed:
    """CCDF (Chung et al. 2022): noise an estimate to the same time for every image.

    Args:
        estimate: gives the estimate of the clean latents.
        start_step: N', a time of the full schedule of N steps; on a shorter grid its nearest position is taken, and
            the first for a time that is not 0. 0 returns the estimate as it is.

    Raises:
        InputError: start_step is negative, or beyond the schedule (when called).
    """

    estimate: Estimate
    start_step: int = setting(100, "Steps N' of a fixed start (CCDF), on the full schedule.", (10, 20, 50, 100))

    def __post_init__(self) -> None:
        if self.start_step < 0:
            raise InputError(f"start step is {self.start_step}; expected 0 or more steps")

    @classmethod
    def build(cls, networks: Networks, start_step: int) -> "Fixed":
        """Take the regressor's estimate, or ẑ if there is no regressor."""
        if networks.regressor is not None:
            return cls(RegressedEstimate(networks.regressor), start_step)
        if networks.encoder is None:
            raise UnsuitedError("ccdf needs a regressor or a severity encoder, and this model has neither")
        return cls(EncodedEstimate(networks.encoder), start_step)

    @torch.no_grad()
    def __call__(self, problem: Problem, prior: LatentPrior, grid: Grid, noise: Tensor) -> Start:
        if self.start_step > len(grid.schedule):
            raise InputError(f"start step is {self.start_step}; the noise schedule has {len(grid.schedule)} steps")
        k = grid.nearest(self.start_step)
        clean, severity = self.estimate(problem, prior)
        abar = grid.abar[k].to(noise)
        z = abar.sqrt() * clean + (1 - abar).sqrt() * noise
        return Start(z, torch.full((len(problem),), k, dtype=torch.int64, device=noise.device), severity)


@register_start("estimate", alone="ae", fixed={"start_step": 0})
class Encoded(Fixed):
    """ẑ, no steps."""

    @classmethod
    def build(cls, networks: Networks, start_step: int = 0) -> "Fixed":
        return cls(EncodedEstimate(networks.encoder_for("estimate")), start_step)


@register_start("regression", alone="swinir")
@dataclass(frozen=True)
class Regressed:
    """A supervised network's restoration as it is, no steps."""

    regressor: Regressor

    @torch.no_grad()
    def __call__(self, problem: Problem, prior: LatentPrior, grid: Grid, noise: Tensor) -> Start:
        k = torch.zeros(len(problem), dtype=torch.int64)
        return Start(noise, k, image=problem.seen_by(self.regressor))
