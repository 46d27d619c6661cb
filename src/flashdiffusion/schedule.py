"""Noise schedule, time grids and SNR matching.

Variable      symbol in the paper
abar[i]       ᾱ_i, i = 1..N;  q(z_i | z_0) = N(a_i z_0, b_i² I), a_i = √ᾱ_i, b_i² = 1 - ᾱ_i
snr           a_i² / b_i²
k             position on a grid: 0 is clean, K is the noisiest; a start at k makes exactly k steps

A flow-matching model has x_t = (1 - t) z_0 + t ε with t in (0, 1]. Divided by √((1-t)² + t²), that is q with
ᾱ = (1-t)² / ((1-t)² + t²): t = b / (a + b), x_t = z_i / (a + b).
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import diffusers
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from flashdiffusion.errors import InputError, brief, shown

# Standard deviation of the noise, relative to the latents, at which a geometric grid ends: they hardly show less.
LOWEST = 0.1
# And from which one has none, but for its first step: above it noise hides latents, whatever its strength.
HIGHEST = 100.0
LARGE = 1_000_000  # steps; no schedule comes near it, and beyond it memory would run out
# ᾱ of a last step without signal (zero terminal SNR, flow matching), so that b / a is finite: diffusers' own floor.
NO_SIGNAL = 2.0**-24
NOTHING = 1e-12  # ᾱ below it is 0 but for rounding; no schedule ends between the two
LARGEST_SHIFT = 1000.0
FLOW = "flow_prediction"
_BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
_SHIFTS = ("shift", "flow_shift", "use_flow_sigmas", "use_dynamic_shifting", "prediction_type")
# What makes another noise schedule of the others, with the value that does not.
_UNSUPPORTED = {"snr_shift_scale": (None, 1, 1.0), "timestep_type": (None, "discrete"), "invert_sigmas": (None, False)}


class NoiseSchedule:
    """ᾱ of the N training steps; index 0 is the clean end with ᾱ_0 = 1, so `abar` has N + 1 entries.

    times: what a denoiser is told of each step, (N + 1,): i - 1, or of flow matching t N. without_signal: whether the
    last step has none, where ᾱ_N is a floor: 2⁻²⁴, or half of ᾱ_(N-1) if that is less.
    """

    def __init__(self, abar: Tensor, times: Tensor | None = None, without_signal: bool = False) -> None:
        """
        Args:
            abar: ᾱ_1..ᾱ_N, strictly decreasing, in (0, 1).
            times: of steps 1..N; None for 0..N-1.
            without_signal: whether ᾱ_N is a floor.

        Raises:
            InputError: abar is no such thing.
        """
        abar = abar.double().cpu()
        ok = abar.ndim == 1 and len(abar) > 0 and bool(((abar > 0) & (abar < 1)).all())
        if not ok or not bool((abar.diff() < 0).all()):
            raise InputError("abar is not a noise schedule; expected strictly decreasing values in (0, 1)")
        self.abar = torch.cat([torch.ones(1, dtype=torch.float64), abar])
        self.times = torch.arange(-1, len(abar)) if times is None else torch.cat([torch.zeros(1), times.float().cpu()])
        self.without_signal = without_signal

    def __len__(self) -> int:
        """N."""
        return len(self.abar) - 1

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tokens: int | None = None) -> "NoiseSchedule":
        """Read the config of a diffusers scheduler (`scheduler_config.json`).

        Args:
            config: betas of any diffusers schedule, zero terminal SNR among them, or flow matching with its shift.
            tokens: patches of an image of the model's size, for a shift that depends on it (`use_dynamic_shifting`).

        Raises:
            InputError: values that are no schedule, one that diffusers does not know, a mistaken key, or a scheduler
                that is of another kind (EDM, variance exploding, consistency).
        """
        _check_keys(config)
        if is_flow(config):
            steps = _steps(config)
            t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
            shift = _shift(config, tokens)
            t = shift * t / (1 + (shift - 1) * t)
            return cls._floored((1 - t).square() / ((1 - t).square() + t.square()), t * steps)
        known = {name: config[name] for name in _BETAS if config.get(name) is not None}
        _steps(known)
        trained = known.get("trained_betas", [0.5])
        for name in ("beta_start", "beta_end"):
            if not _is_beta(known.get(name, 0.5)):
                raise InputError(f"{name} is {shown(known[name])}; expected a number between 0 and 1")
        if not isinstance(trained, Sequence) or not 1 <= len(trained) <= LARGE or not all(map(_is_beta, trained)):
            raise InputError(f"trained_betas is {shown(trained)}; expected a list of numbers between 0 and 1")
        try:
            return cls._floored(DDPMScheduler(**known).alphas_cumprod.double())
        except InputError as error:
            raise InputError(f"{shown(known)}: {error}") from error
        except Exception as error:  # diffusers and torch raise many kinds for values that make no schedule
            raise InputError(f"no noise schedule from {shown(known)}: {brief(error)}") from error

    @classmethod
    def _floored(cls, abar: Tensor, times: Tensor | None = None) -> "NoiseSchedule":
        """Make one whose last step may have no signal."""
        if without_signal := float(abar[-1]) < NOTHING:
            before = float(abar[-2]) if len(abar) > 1 else 1.0
            abar = torch.cat([abar[:-1], abar.new_tensor([min(NO_SIGNAL, before / 2)])])
        return cls(abar, times, without_signal)

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

        Where a schedule goes far beyond `HIGHEST`, as one without signal at its end, the factor counts from there, and
        time N is one step more. Times are whole numbers: where the schedule has too few of them, the grid is shorter
        than `steps`.

        Raises:
            InputError: steps below 1.
        """
        if not isinstance(steps, int) or steps < 1:
            raise InputError(f"steps is {steps}; expected at least 1, a whole number")
        noise = ((1 - self.abar[1:]) / self.abar[1:]).sqrt().log()
        first, last, count = max(math.log(lowest), float(noise[0])), float(noise[-1]), min(steps, len(self))
        wanted = torch.linspace(first, last, count, dtype=torch.float64)
        if last > (highest := math.log(HIGHEST)):
            wanted = torch.cat([torch.linspace(first, highest, count - 1, dtype=torch.float64), noise[-1:]])
        times = (noise - wanted[:, None]).abs().argmin(dim=1) + 1
        return Grid(torch.cat([torch.zeros(1, dtype=torch.int64), times.unique()]), self)


def is_flow(config: Mapping[str, Any]) -> bool:
    """Tell whether a scheduler's config is one of flow matching."""
    return str(config.get("_class_name", "")).startswith("FlowMatch") or bool(config.get("use_flow_sigmas"))


def make_scheduler(config: Mapping[str, Any]) -> DDPMScheduler | FlowMatchEulerDiscreteScheduler:
    """Build the scheduler that stands for a scheduler's config; raises what `NoiseSchedule.from_config` raises."""
    NoiseSchedule.from_config(config, tokens=1)  # checked before diffusers allocates a step
    if not is_flow(config):
        return DDPMScheduler.from_config(config)
    shift = config.get("flow_shift") or 1.0
    own = config if str(config.get("_class_name")).startswith("FlowMatch") else {"shift": shift, **config}
    return FlowMatchEulerDiscreteScheduler.from_config(own)


def about_scheduler(scheduler: Any) -> dict[str, Any]:
    """Give a diffusers scheduler's config with its class name."""
    return {**scheduler.config, "_class_name": type(scheduler).__name__}


def _is_beta(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < 1


def _steps(config: Mapping[str, Any]) -> int:
    steps = 1000 if config.get("num_train_timesteps") is None else config["num_train_timesteps"]
    if not isinstance(steps, int) or not 1 <= steps <= LARGE:
        raise InputError(f"num_train_timesteps is {shown(steps)}; expected a whole number from 1 to {LARGE}")
    return steps


def _shift(config: Mapping[str, Any], tokens: int | None) -> float:
    """Read the shift s of t -> s t / (1 + (s - 1) t); of one that depends on the image, for that many tokens."""
    if not config.get("use_dynamic_shifting"):
        return _number(config, "flow_shift" if config.get("use_flow_sigmas") else "shift", 1.0)
    if tokens is None:
        raise InputError(
            "use_dynamic_shifting is true: the shift depends on the size of images, and the denoiser's config does not "
            "say its sample_size; expected one, or use_dynamic_shifting false and a shift"
        )
    first, last = _number(config, "base_image_seq_len", 256), _number(config, "max_image_seq_len", 4096)
    if first == last:
        raise InputError(
            f"base_image_seq_len and max_image_seq_len are both {first:g}; expected two numbers, or "
            "use_dynamic_shifting false and a shift"
        )
    low, high = _number(config, "base_shift", 0.5), _number(config, "max_shift", 1.15)
    mu = low + (high - low) * (tokens - first) / (last - first)
    return math.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else mu


def _number(config: Mapping[str, Any], name: str, default: float) -> float:
    value = default if config.get(name) is None else config[name]
    most = LARGE if name.endswith("seq_len") else LARGEST_SHIFT
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= most:
        raise InputError(f"{name} is {shown(value)}; expected a number above 0, of {most:g} at most")
    return float(value)


def _check_keys(config: Mapping[str, Any]) -> None:
    """Raise InputError for a scheduler of another kind, a key that is not supported, or one that is mistyped."""
    name = config.get("_class_name")
    cls = getattr(diffusers, name, None) if isinstance(name, str) else None
    known = set(inspect.signature(cls).parameters) if isinstance(cls, type) else {*_BETAS, *_SHIFTS}
    if isinstance(name, str) and not name.startswith("FlowMatch") and "beta_schedule" not in known:
        expected = "a scheduler with a beta_schedule, such as DDPMScheduler, or FlowMatchEulerDiscreteScheduler"
        raise InputError(f"_class_name is {shown(name)}, which has another kind of noise schedule; expected {expected}")
    for key, plain in _UNSUPPORTED.items():
        if config.get(key) not in list(plain):
            raise InputError(f"{key} is {shown(config[key])}, which is not supported; expected {shown(plain[-1])}")
    for key in config:
        if key not in known and not str(key).startswith("_"):
            near = get_close_matches(str(key), (*_BETAS, *_SHIFTS), n=1, cutoff=0.85)
            if near and near[0] != key:
                raise InputError(f"unknown key {shown(key)}; did you mean {near[0]}?")


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
