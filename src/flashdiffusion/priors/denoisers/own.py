"""A user's own denoiser: any function z, i -> ẑ0."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from flashdiffusion.errors import InputError
from flashdiffusion.priors.denoisers.base import Denoiser

Denoise = Callable[[Tensor, Tensor], Tensor]


class OwnDenoiser(Denoiser):
    """A function of latents z (B, c, h, w) and times i in 1..N, int64 (B,), that gives ẑ0 (B, c, h, w).

    If it is a module, it moves with the prior.
    """

    network = nn.Module
    prediction = "sample"
    told_steps = True

    def __init__(self, denoise: Denoise, channels: int, unit: int = 1, sample_size: int | None = None) -> None:
        if not callable(denoise):
            raise InputError(f"denoise is a {type(denoise).__name__}; expected a function z, i -> z0")
        super().__init__(denoise if isinstance(denoise, nn.Module) else nn.Identity())
        self._denoise, self._channels, self._unit, self._side = denoise, channels, unit, sample_size

    @property
    def channels(self) -> int:
        return self._channels

    @property
    def channels_out(self) -> int:
        return self._channels

    @property
    def sample_size(self) -> int | None:
        return self._side

    @property
    def unit(self) -> int:
        return self._unit

    @property
    def attends(self) -> bool:
        return not isinstance(self._denoise, nn.Module) or super().attends

    def predict(self, z: Tensor, times: Tensor, *told: Tensor) -> Tensor:
        return self._denoise(z, times)

    def save(self, folder: Path) -> None:
        raise InputError(
            "a prior of your own function cannot be saved: code is no weights; expected one of a network of diffusers"
        )
