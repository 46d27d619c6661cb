"""What our operators share: per-image parameters, row selection, Gaussian noise, saving."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor

from flashdiffusion.errors import InputError

NoiseStd = float | Sequence[float] | Tensor


class BatchedPhysics(ABC):
    """A degradation whose parameters are tensors with one row per image.

    `params` holds them all, so that taking rows, moving to a device and saving need no code per operator.
    DeepInverse's protocol: `A` and `physics(x) = A(x) + noise`; linear ones add `A_adjoint`.

    Args:
        params: parameters by name, each (B, ...).
        noise_std: σ_y, standard deviation of the additive Gaussian noise on the [0, 1] scale: one number, or one per
            image. Kept as float64 (B,) on the CPU.

    Raises:
        InputError: a noise_std that is negative or not finite, or another number of them than images.
    """

    name: ClassVar[str]
    scale_of_images: ClassVar[bool] = True  # whether y is on the [0, 1] scale, and its noise with it

    def __init__(self, params: dict[str, Tensor], noise_std: NoiseStd) -> None:
        self.params = params
        std = torch.as_tensor(noise_std, dtype=torch.float64, device="cpu").flatten()
        if not bool((std.isfinite() & (std >= 0)).all()):
            shown = std.tolist() if len(std) > 1 else float(std)
            raise InputError(f"noise std is {shown}; expected a finite number >= 0")
        if self.scale_of_images and bool((std > 1).any()):
            high = float(std.max())
            raise InputError(
                f"noise std is {high:g}; expected the [0, 1] scale of images, where {high:g} of 255 is {high / 255:.4g}"
            )
        if len(std) not in {1, len(self)}:
            raise InputError(f"{len(std)} noise stds for {len(self)} images; expected one, or one per image")
        self.noise_std = std.expand(len(self)).clone()

    def __len__(self) -> int:
        """Number of images that the parameters are for."""
        return len(next(iter(self.params.values())))

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """The noise-free measurement of x (B, C, H, W); raises InputError for another number of images."""

    @abstractmethod
    def describe(self) -> list[dict[str, float | str]]:
        """The parameters of each image, for records."""

    @classmethod
    @abstractmethod
    def from_params(cls, params: dict[str, Tensor], noise_std: NoiseStd) -> Self:
        """The inverse of reading `params`: rebuild from saved tensors (raises InputError if they do not fit)."""

    @property
    def gives_images(self) -> bool:
        """Whether measurements are images, if of another size, so that an image file can be one."""
        return True

    def image(self, y: Tensor) -> Tensor:
        """Measurements as images (B, C, H, W) of the size of x, for networks that take images; y if it is one."""
        return self.measured(y)

    @property
    def loses(self) -> bool:
        """Whether some entries of y are no data (see `measured`)."""
        return False

    def measured(self, y: Tensor) -> Tensor:
        """y with 0 where nothing was measured: what a file holds there is no data. Linear and per image."""
        return y

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A(x) + n, n ~ N(0, noise_std² I).

        The noise is drawn in float32 on the generator's device (the CPU without one), so that a seed means the same
        noise whatever device and precision x has.
        """
        y = self.A(x)
        device = generator.device if generator is not None else "cpu"
        noise = torch.randn(y.shape, generator=generator, device=device).to(y)
        return y + self.noise_std.to(y).view(-1, *[1] * (y.ndim - 1)) * noise

    def take(self, rows: Tensor) -> "BatchedPhysics":
        """The physics of some rows (int64 indices) of the batch."""
        params = {key: value[rows.to(value.device, non_blocking=True)] for key, value in self.params.items()}
        return self.from_params(params, self.noise_std[rows.cpu()])

    def to(self, device: torch.device | str) -> "BatchedPhysics":
        """The same physics with its parameters on `device`."""
        return self.from_params({key: value.to(device) for key, value in self.params.items()}, self.noise_std)

    @property
    def kind(self) -> Hashable:
        """Operators of equal kind can be joined to one."""
        return type(self)

    @classmethod
    def join(cls, parts: "Sequence[BatchedPhysics]") -> "BatchedPhysics":
        """One physics for the images of several of one kind, in their order; `concatenate` joins different kinds."""
        params = {key: torch.cat([part.params[key] for part in parts]) for key in parts[0].params}
        return cls.from_params(params, torch.cat([part.noise_std for part in parts]))

    def check_batch(self, x: Tensor) -> None:
        """Raise InputError unless x is (len(self), C, H, W)."""
        if x.ndim != 4 or len(x) != len(self):
            raise InputError(
                f"{self.name}: images of shape {tuple(x.shape)}; expected ({len(self)}, C, H, W), one image "
                "per row of parameters"
            )


class BatchedLinearPhysics(BatchedPhysics):
    """A linear degradation with its exact adjoint."""

    @abstractmethod
    def A_adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ y, the exact adjoint of `A`: measurements -> (B, C, H, W)."""


def per_image(what: str, value: Sequence[float] | Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Parameters as a tensor (B,), one per image; `what` names them in the error.

    Raises:
        InputError: one number alone, which does not say for how many images it is.
    """
    tensor = torch.as_tensor(value, dtype=dtype)
    if tensor.ndim == 0:
        number = f"{float(tensor):g}"
        raise InputError(
            f"{what} is {number}, a single number; expected (B,), one per image, e.g. torch.tensor([{number}])"
        )
    return tensor


def expect_params(name: str, params: dict[str, Tensor], *names: str) -> None:
    """Raise InputError unless `params` are exactly those an operator has."""
    if set(params) != set(names):
        plural = "parameters" if len(names) > 1 else "parameter"
        raise InputError(f"{name} has the {plural} {', '.join(names)}; got {sorted(params)}")
