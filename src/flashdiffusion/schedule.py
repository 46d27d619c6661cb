"""Noise schedule, time grids and SNR matching.

Variable      symbol in the paper
abar[i]       ᾱ_i, i = 1..N;  q(z_i | z_0) = N(a_i z_0, b_i² I), a_i = √ᾱ_i, b_i² = 1 - ᾱ_i
snr           a_i² / b_i²
k             position on a grid: 0 is clean, K is the noisiest; a start at k makes exactly k steps
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from flashdiffusion.errors import InputError, brief, shown

# Standard deviation of the noise, relative to the latents, at which a geometric grid ends: they hardly show less.
LOWEST = 0.1
LARGE = 1_000_000  # steps; no schedule comes near it, and beyond it memory would run out


class NoiseSchedule:
    """ᾱ of the N training steps; index 0 is the clean end with ᾱ_0 = 1, so `abar` has N + 1 entries."""

    def __init__(self, abar: Tensor) -> None:
        """
        Args:
            abar: ᾱ_1..ᾱ_N, strictly decreasing, in (0, 1).

        Raises:
            InputError: it is not.
        """
        abar = abar.double().cpu()
        ok = abar.ndim == 1 and len(abar) > 0 and bool(((abar > 0) & (abar < 1)).all())
        if not ok or not bool((abar.diff() < 0).all()):
            raise InputError("abar is not a noise schedule; expected strictly decreasing values in (0, 1)")
        self.abar = torch.cat([torch.ones(1, dtype=torch.float64), abar])

    def __len__(self) -> int:
        """N."""
        return len(self.abar) - 1

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "NoiseSchedule":
        """Read the config of a diffusers scheduler (`scheduler_config.json`).

        Raises:
            InputError: values that are no schedule, or one that diffusers does not know, or whose last step has no
                signal.
        """
        names = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
        known = {name: config[name] for name in names if config.get(name) is not None}
        steps, trained = known.get("num_train_timesteps", 1), known.get("trained_betas", [0.5])
        if not isinstance(steps, int) or not 1 <= steps <= LARGE:
            raise InputError(f"num_train_timesteps is {shown(steps)}; expected a whole number from 1 to {LARGE}")
        for name in ("beta_start", "beta_end"):
            if not _is_beta(known.get(name, 0.5)):
                raise InputError(f"{name} is {shown(known[name])}; expected a number between 0 and 1")
        if not isinstance(trained, Sequence) or not 1 <= len(trained) <= LARGE or not all(map(_is_beta, trained)):
            raise InputError(f"trained_betas is {shown(trained)}; expected a list of numbers between 0 and 1")
        if config.get("rescale_betas_zero_snr"):
            raise InputError("rescale_betas_zero_snr schedules are not supported: their last step has no signal")
        try:
            return cls(DDPMScheduler(**known).alphas_cumprod)
        except InputError as error:
            raise InputError(f"{shown(known)}: {error}") from error
        except Exception as error:  # diffusers and torch raise many kinds for values that make no schedule
            raise InputError(f"no noise schedule from {shown(known)}: {brief(error)}") from error

    def grid(self, steps: int | None = None) -> "Grid":
        """Take all N steps, or `steps` of them evenly spaced so that K is N (diffusers' "trailing" spacing).

        Raises:
            InputError: steps outside 1..N.
        """
        total = len(self)
        steps = total if steps is None else steps
        if not isinstance(steps, int) or not 1 <= steps <= total:
            raise InputError(f"steps is {steps}; expected 1 to {total}, the length of the noise schedule")
        times = torch.arange(steps + 1, dtype=torch.float64) * (total / steps)
        return Grid(times.round().long(), self)

    def geometric(self, steps: int, lowest: float = LOWEST) -> "Grid":
        """Take times at which the noise b_i / a_i falls by a constant factor, from time N to `lowest`.

        Times are whole numbers: where the schedule has too few of them, the grid is shorter than `steps`.

        Raises:
            InputError: steps below 1.
        """
        if not isinstance(steps, int) or steps < 1:
            raise InputError(f"steps is {steps}; expected at least 1, a whole number")
        noise = ((1 - self.abar[1:]) / self.abar[1:]).sqrt().log()
        wanted = torch.linspace(
            max(math.log(lowest), float(noise[0])), float(noise[-1]), min(steps, len(self)), dtype=torch.float64
        )
        times = (noise - wanted[:, None]).abs().argmin(dim=1) + 1
        return Grid(torch.cat([torch.zeros(1, dtype=torch.int64), times.unique()]), self)


def _is_beta(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < 1


@dataclass(frozen=True)
class Grid:
    """The times that a sampler visits: `times[k]` is i in 0..N for k = 0 (clean) .. K (noise)."""

    times: Tensor
    schedule: NoiseSchedule

    def __len__(self) -> int:
        """K, the number of steps from noise to clean."""
        return len(self.times) - 1

    @property
    def abar(self) -> Tensor:
        """ᾱ at each k, float64 (K + 1,)."""
        return self.schedule.abar[self.times]

    def nearest(self, time: int) -> int:
        """Find the k whose time is nearest to `time`; 0 for time 0 alone."""
        return int((self.times[1:] - time).abs().argmin()) + 1 if time > 0 else 0

    def passes(self, k: Tensor, every: int) -> Tensor:
        """Say which steps from k (B,) meet or pass a multiple of `every` times of the full schedule, or are last."""
        return (self.times[k] // every > self.times[k - 1] // every) | (k == 1)

    def match(self, variance: Tensor) -> Tensor:
        """Find k in 1..K whose SNR is nearest to 1 / variance: argmin_k |snr_k - 1/σ̂²| (the paper's i_start).

        Args:
            variance: σ̂² >= 0 in scaled latent units, (B,).

        Returns:
            int64 (B,), on the device of `variance`.

        Raises:
            InputError: a variance that is negative or not finite.
        """
        if not bool((variance.isfinite() & (variance >= 0)).all()):
            raise InputError(f"severity {variance.tolist()}; expected finite variances >= 0")
        abar = self.abar[1:]
        snr = abar / (1 - abar)
        # 1/σ̂² overflows for σ̂² = 0, where the match is the least noisy step all the same.
        target = 1 / variance.cpu().double().clamp(min=1e-12)
        return ((snr - target[:, None]).abs().argmin(dim=1) + 1).to(variance.device)
