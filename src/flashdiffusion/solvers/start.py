"""Where each image starts, and from what: the latent and its grid position come from one function."""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from flashdiffusion.errors import InputError, UnsuitedError, unknown_name
from flashdiffusion.priors import LatentPrior
from flashdiffusion.regression import Regressor
from flashdiffusion.schedule import Grid
from flashdiffusion.severity import Severity, SeverityEncoder
from flashdiffusion.solvers.consistency import Consistency
from flashdiffusion.solvers.operator_check import find_mismatch
from flashdiffusion.solvers.problem import Problem
from flashdiffusion.solvers.registry import Networks, part, register_start, setting

# c·σ̂² stays below 1, so that some of the estimate is left.
MAX_MIX = 0.999
# Standard deviation of the latent error by which it is tried what residual an error leaves.
PROBE = 0.1


@dataclass(frozen=True)
class Start:
    """z: start latents (B, c, h, w); k: grid positions, int64 (B,), 0 = already clean.

    severity: what was estimated, if anything. nfe: denoiser evaluations spent on the start, int64 (B,), None for none.
    image: finished images (B, 3, H, W) where k = 0, so that z is not decoded; None if z says what they are.
    excess: variance of the measurements beyond what is told, (B,), see `Problem.excess`; None if not tested.
    mismatch: by which blurs A differs from what is told, (B, J), see `mismatch.py`; None if it is believed.
    """

    z: Tensor
    k: Tensor
    severity: Severity | None = None
    nfe: Tensor | None = None
    image: Tensor | None = None
    excess: Tensor | None = None
    mismatch: Tensor | None = None


def scaled_by(severity: Severity, factor: Tensor, inside: Tensor | None = None) -> Severity:
    """Multiply variances with a factor (B,), but not those inside holes, bool (B, 1, h, w)."""
    logs = severity.log_var_map
    if logs is not None:
        added = factor.log().view(-1, 1, 1).to(logs).expand_as(logs)
        logs = logs + (added if inside is None else added.masked_fill(inside[:, 0], 0))
    severity = replace(severity, var=severity.var * factor.to(severity.var), log_var_map=logs)
    return severity if inside is None else _averaged(severity, inside)


def _averaged(severity: Severity, inside: Tensor) -> Severity:
    """Give σ̂² as the mean of the map again, of images with holes alone: others keep it to the last digit."""
    holed = inside.flatten(1).any(dim=1)
    return replace(severity, var=torch.where(holed, severity.map.mean(dim=(1, 2, 3)), severity.var))


def explained(severity: Severity, problem: Problem, prior: LatentPrior, noise: Tensor) -> Severity:
    """Raise the severity to at least the variance of an error in ẑ that would leave the residual of `problem.image`.

    Only where that is an estimate by least squares (`Problem.guessed`), whose damages the encoder was not trained on:
    an estimate that explains y may start low, another may not, whatever it looks like.

    Args:
        noise: standard normal, the shape of the latents: the error that is tried.
    """
    rows = problem.guessed.nonzero()[:, 0]
    if not len(rows):
        return severity
    part, z_hat = problem.take(rows), severity.z_hat[rows]
    left = part.residual(part.image).flatten(1).square().mean(dim=1) - part.residual_variance
    here, moved = (part.residual(prior.decode(z)).flatten(1) for z in (z_hat, z_hat + PROBE * noise[rows]))
    of_unit_error = (moved - here).square().mean(dim=1) / PROBE**2
    factor = torch.ones_like(severity.var)
    factor[rows] = (left / of_unit_error.clamp(min=1e-12)).to(factor) / severity.var[rows]
    return scaled_by(severity, factor.clamp(min=1))


def in_holes(problem: Problem, size: tuple[int, int]) -> Tensor | None:
    """Tell which places of latents of this height and width lie in holes, bool (B, 1, h, w); None if there are none."""
    if problem.holes is None:
        return None
    share = F.adaptive_avg_pool2d(problem.holes.float(), size)
    return F.max_pool2d((share > 0).float(), 3, stride=1, padding=1) > 0  # and what the decoder mixes with them


def with_holes(severity: Severity, inside: Tensor | None) -> Severity:
    """Raise the map to the prior's variance, 1, inside holes."""
    if inside is None:
        return severity
    logs = severity.map.log()[:, 0] if severity.log_var_map is None else severity.log_var_map
    return _averaged(replace(severity, log_var_map=torch.where(inside[:, 0], logs.clamp(min=0.0), logs)), inside)


def starting_variance(severity: Severity, inside: Tensor | None) -> Tensor:
    """Give the variance to start by, (B,): σ̂², but at least 1 where there is a hole, so that it starts from noise."""
    if inside is None:
        return severity.var
    return torch.where(inside.flatten(1).any(dim=1), severity.var.clamp(min=1.0), severity.var)


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
        refine: whether ẑ is first made consistent with y, with the encoder's map as its variance. Noise, map and A are
            tested by it; an A that is not what it is said to be is corrected, and the encoder asked again.
        consistency: how.

    Raises:
        InputError: correction negative or not finite, unknown mixing.
    """

    encoder: SeverityEncoder
    correction: float = setting(1.2, "Noise correction of the start, c.", (0.0, 0.2, 0.5, 1.2))
    mixing: str = setting("paper", "Noise mixing of a Flash start: paper or consistent.")
    refine: bool = setting(False, "Whether the estimate is made consistent with the measurement before the first step.")
    consistency: Consistency = part(Consistency)  # noqa: RUF009  # `part` gives a field, as dataclasses.field does

    def __post_init__(self) -> None:
        if not 0 <= self.correction < float("inf"):
            raise InputError(f"correction c is {self.correction}; expected a finite number >= 0")
        if self.mixing not in {"paper", "consistent"}:
            raise unknown_name("mixing", self.mixing, ["paper", "consistent"])

    @torch.no_grad()
    def __call__(self, problem: Problem, prior: LatentPrior, grid: Grid, noise: Tensor) -> Start:
        inside = in_holes(problem, (noise.shape[2], noise.shape[3]))
        severity, excess, mismatch = self._estimated(problem, prior, noise, inside)
        z_hat, var = severity.z_hat, starting_variance(severity, inside)
        added = self.correction * var
        if self.mixing == "consistent":
            k = grid.match(var + added)
            abar = grid.abar[k.cpu()].to(z_hat).view(-1, 1, 1, 1)
            z = abar.sqrt() * (z_hat + added.to(z_hat).sqrt().view(-1, 1, 1, 1) * noise)
            return Start(z, k, severity, excess=excess, mismatch=mismatch)
        mix = added.clamp(max=MAX_MIX).to(z_hat).view(-1, 1, 1, 1)
        z = (1 - mix).sqrt() * z_hat + mix.sqrt() * noise
        return Start(z, grid.match(var), severity, excess=excess, mismatch=mismatch)

    def _estimated(
        self, problem: Problem, prior: LatentPrior, noise: Tensor, inside: Tensor | None
    ) -> tuple[Severity, Tensor | None, Tensor | None]:
        """Severity, and with `refine` excess and mismatch, see `Start`."""
        severity = with_holes(explained(problem.severity(self.encoder), problem, prior, noise), inside)
        if not self.refine:
            return severity, None, None
        found = self.consistency.tested(severity.z_hat, severity.map, problem, prior, inside)
        mismatch = find_mismatch(problem, severity, found, self.encoder, prior)
        severity, excess = scaled_by(replace(severity, z_hat=found.z), found.factor, inside), found.excess
        if mismatch is not None:
            rows = mismatch.any(dim=1).nonzero()[:, 0]
            part = replace(problem.take(rows), mismatch=mismatch[rows])
            again = part.severity(self.encoder)
            found = self.consistency.tested(again.z_hat, again.map, part, prior)
            severity = severity.updated(rows, scaled_by(replace(again, z_hat=found.z), found.factor))
            excess = excess.index_copy(0, rows, found.excess)
        return severity, excess, mismatch


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
        severity = with_holes(explained(problem.severity(self.encoder), problem, prior, noise), inside)
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
