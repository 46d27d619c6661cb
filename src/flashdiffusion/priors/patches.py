"""An autoencoder without weights: latents are the pixels themselves, a square of them in each place."""

from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from flashdiffusion.data import ensure_directory, write_json
from flashdiffusion.errors import InputError, blamed_on, shown
from flashdiffusion.priors.arguments import is_kind
from flashdiffusion.priors.autoencoder import (
    DiffusersAutoencoder,
    IdentityAutoencoder,
    to_image_range,
    to_network_range,
)
from flashdiffusion.priors.folder import read_json
from flashdiffusion.priors.precision import KeepsFloat32Buffers

PATCHES = (1, 2, 4)


class PatchAutoencoder(KeepsFloat32Buffers):
    """Each patch x patch square of pixels, transformed by Haar's orthonormal transform, is one place of the latent.

    It is exactly invertible, so that it bounds no result and no decoder has to be differentiated through. Without
    `std`, white noise on pixels in [-1, 1] is white noise of the same size on latents.

    Args:
        patch: side of the square in pixels: 1, 2 or 4.
        mean: of each of the 3 patch² channels, taken from them; None for 0.
        std: that each channel is divided by, after; None for 1.
        spread: standard deviation of each channel of images' latents, for networks that read them: the finest detail
            has a tenth of the brightness's, and what comes at its own size is learned late. None for 1.

    Raises:
        InputError: another side, not one number for each channel, or one that is not finite, of std and spread not
            above 0.
    """

    haar: Tensor
    mean: Tensor
    std: Tensor
    spread: Tensor

    def __init__(
        self,
        patch: int = 2,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        spread: list[float] | None = None,
    ) -> None:
        super().__init__()
        if patch not in PATCHES:
            raise InputError(f"patch is {shown(patch)}; expected one of {', '.join(map(str, PATCHES))}")
        self.factor, self.channels = patch, 3 * patch**2
        self.register_buffer("haar", _haar(patch), persistent=False)
        for name, given, default in (("mean", mean, 0.0), ("std", std, 1.0), ("spread", spread, 1.0)):
            values = [default] * self.channels if given is None else given
            if not is_kind(values, list[float]) or len(values) != self.channels:
                raise InputError(f"{name} is {shown(values)}; expected {self.channels} numbers")
            # On the CPU wherever it is made: an outline of a network (`build`) has all else on the meta device.
            numbers = torch.tensor(values, dtype=torch.float32, device="cpu").view(1, -1, 1, 1)
            self.register_buffer(name, numbers, persistent=False)
        divisors = torch.cat([self.std, self.spread])
        if not bool(self.mean.isfinite().all() and (divisors.isfinite() & (divisors > 0)).all()):
            given_numbers = f"mean {shown(mean)}, std {shown(std)}, spread {shown(spread)}"
            raise InputError(f"{given_numbers}; expected finite numbers, of std and spread above 0")

    @property
    def latent_std(self) -> float:
        """Standard deviation of the latents of images, over all channels."""
        return float(self.spread.square().mean().sqrt())

    @property
    def keeps_white_noise(self) -> bool:
        """Whether white noise on images in [-1, 1] is white noise of the same size on latents."""
        return bool((self.std == 1).all())

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> latents (B, channels, H / patch, W / patch), in the type of x."""
        squares = F.pixel_unshuffle(to_network_range(x), self.factor).unflatten(1, (3, -1))
        raw = torch.einsum("kn,bcnhw->bckhw", self.haar.to(x), squares).flatten(1, 2)
        return (raw - self.mean.to(x)) / self.std.to(x)

    def decode(self, z: Tensor, quantise: bool = True) -> Tensor:
        """The inverse; values are not clipped to [0, 1]."""
        raw = (z * self.std.to(z) + self.mean.to(z)).unflatten(1, (3, -1))
        squares = torch.einsum("kn,bckhw->bcnhw", self.haar.to(z), raw).flatten(1, 2)
        return to_image_range(F.pixel_shuffle(squares, self.factor))

    @classmethod
    def fitted(cls, images: Tensor, patch: int = 2, exponent: float = 0.0) -> Self:
        """Make one whose channels have mean 0 over images (B, 3, H, W) in [0, 1], and variances nearer to each other.

        Args:
            exponent: of the standard deviations that channels are divided by: 0 leaves them, 1 makes all of them 1.

        Raises:
            InputError: an exponent outside [0, 1], or as the class.
        """
        if not 0 <= exponent <= 1:
            raise InputError(f"exponent is {exponent}; expected a number from 0 to 1")
        raw = cls(patch).encode(images.float()).transpose(0, 1).flatten(1)
        spread = raw.std(dim=1).clamp(min=1e-6)
        std = spread**exponent
        return cls(patch, raw.mean(dim=1).tolist(), std.tolist(), (spread / std).tolist())

    @property
    def numbers(self) -> dict[str, list[float]]:
        """Its arguments beside `patch`."""
        return {name: getattr(self, name).flatten().tolist() for name in ("mean", "std", "spread")}

    def save_pretrained(self, out: str | Path) -> None:
        """Write its config.json; there are no weights."""
        about = {"_class_name": type(self).__name__, "patch": self.factor}
        write_json(ensure_directory(out) / "config.json", about | self.numbers)

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """Read one from its folder; raises CheckpointError for a config that makes none."""
        config = read_json(folder / "config.json")
        with blamed_on(folder / "config.json"):
            return cls(config["patch"], *(config.get(name) for name in ("mean", "std", "spread")))


Autoencoder = DiffusersAutoencoder | PatchAutoencoder | IdentityAutoencoder


def _haar(side: int) -> Tensor:
    """Orthonormal transform of the pixels of a square, row by row, (side², side²)."""
    sums, differences = (torch.tensor([pair], device="cpu") * 0.5**0.5 for pair in ([1.0, 1.0], [1.0, -1.0]))
    one = torch.ones(1, 1, device="cpu")
    while len(one) < side:
        one = torch.cat([torch.kron(one, sums), torch.kron(torch.eye(len(one), device="cpu"), differences)])
    return torch.kron(one, one)
