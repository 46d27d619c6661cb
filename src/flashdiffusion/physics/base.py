"""What our operators share: per-image parameters, row selection, Gaussian noise, saving."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy
from functools import lru_cache
from inspect import signature
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.physics.deepinverse import DeepInverseMethods
from flashdiffusion.physics.noise import NoiseStd, add_noise, checked_noise, numbers
from flashdiffusion.physics.windows import Window

PerImage = float | Sequence[float] | Tensor  # a parameter: one number for all images, or one for each
Size = tuple[int, int]  # of an image: height and width in pixels


class BatchedPhysics(DeepInverseMethods, ABC):
    """A degradation whose parameters are tensors with one row per image; a single row serves a batch of any size.

    `params` holds them all, so that taking rows, moving to a device, describing and saving need no code per operator.
    `A` and `physics(x) = A(x) + noise`; linear ones add `A_adjoint`, and DeepInverse's protocol follows. A subclass has
    a `name` and a constructor whose arguments are the names of `params`, and `noise_std`.

    Args:
        params: parameters by name, each (B, ...) or (1, ...).
        noise_std: σ_y, standard deviation of the additive Gaussian noise on the [0, 1] scale: one number, or one per
            image. Kept as float64 (B,) on the CPU.

    Raises:
        InputError: a noise_std that is negative or not finite, or different numbers of rows.
    """

    name: ClassVar[str]
    scale_of_images: ClassVar[bool] = True  # whether y is on the [0, 1] scale, and its noise with it
    gives_images: bool = True  # whether measurements are images, if of another size, so that an image file can be one
    loses: bool = False  # whether some entries of y are no data (see `measured`)
    rounds: bool = False  # whether A rounds; one that does has `softened` and `discounted`

    def __init__(self, params: Mapping[str, Tensor], noise_std: NoiseStd) -> None:
        std = checked_noise(noise_std, self.scale_of_images)
        rows = {key: len(value) for key, value in params.items()}
        count = max(rows.values(), default=1)
        if count == 1:
            count = len(std)
        if len(std) not in {1, count}:
            raise InputError(f"{len(std)} noise stds for {count} images; expected one, or one per image")
        if set(rows.values()) - {1, count}:
            raise InputError(f"{self.name} with {rows} rows; expected one of each parameter, or one per image")
        with torch.inference_mode(False):  # tensors of inference mode could not be part of a gradient
            self._params = {key: value.expand(count, *value.shape[1:]).clone() for key, value in params.items()}
            self._noise_std = std.expand(count).clone()
        self._derived: dict[Hashable, Tensor] = {}

    @property
    def params(self) -> dict[str, Tensor]:
        """Parameters by name, each with a row per image."""
        return self._params

    @property
    def noise_std(self) -> Tensor:
        """σ_y of each image, float64 (B,) on the CPU."""
        return self._noise_std

    @property
    def gain(self) -> Tensor | None:
        """Gain (B,) of noise of variance gain · A(x) + noise_std²; None for noise that does not grow with A(x)."""
        return None

    @property
    def names(self) -> list[str]:
        """Name of each image's operator."""
        return [self.name] * len(self)

    def __len__(self) -> int:
        """Number of images that the parameters are for."""
        return len(self.noise_std)

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """Measure x (B, C, H, W) without noise; raises InputError for another number of images."""

    def softened(self, x: Tensor) -> Tensor:
        """A(x) for fits: where A rounds, the mean over small errors, with the derivative of an A that does not.

        A fit that rounds jumps from step to step with the last bits of x; one that has the derivative of the mean
        divides by slopes next to 0, and turns these bits into grey levels.
        """
        return self.A(x)

    def discounted(self, residual: Tensor, variance: Tensor) -> Tensor:
        """Take rounding for noise: shrink a residual `softened(x)` - y by as much as that adds to its noise.

        It is linear. Of a component with noise of variance v, to which rounding adds r, √(v / (v + r)) is left, so that
        its variance is v again.

        Args:
            residual: the shape of y, on any scale.
            variance: of the noise in each entry on the [0, 1] scale, (B,).
        """
        return residual

    def describe(self) -> list[dict[str, float | str]]:
        """Describe each image's operator by its scalar parameters, for records."""
        numbers = {key: value.tolist() for key, value in self.params.items() if value.ndim == 1}
        return [
            {"physics": self.name} | {key: round(values[row], 4) for key, values in numbers.items()}
            for row in range(len(self))
        ]

    @classmethod
    def from_params(cls, params: dict[str, Tensor], noise_std: NoiseStd) -> Self:
        """Rebuild from saved `params`; raises InputError if they do not fit."""
        names = [name for name in signature(cls).parameters if name != "noise_std"]
        if set(params) != set(names):
            plural = "parameters" if len(names) > 1 else "parameter"
            raise InputError(f"{cls.name} has the {plural} {', '.join(names) or 'none'}; got {sorted(params)}")
        arguments: dict[str, Any] = {**params, "noise_std": noise_std}
        return cls(**arguments)

    @property
    def halo(self) -> int | None:
        """Pixels of x, beyond itself on each side, that a pixel of y depends on; None if on all, or if not known.

        One that says it can be cut: it has the right `window`, and is of pictures of any size.
        """
        return None

    @property
    def alignment(self) -> int:
        """Pixels of x that the borders of a window are multiples of, but where the picture ends."""
        return 1

    @property
    def pixel_size(self) -> int:
        """Side of a pixel of y, in pixels of x."""
        return 1

    def check_size(self, size: Size) -> None:
        """Raise InputError if it is not for pictures x of this height and width, before windows of it are taken."""

    def window(self, part: Window) -> "BatchedPhysics":
        """The operator of part of x; what lies beyond is reflected, as at a border of the picture.

        Its measurements are those of the whole at this place, but for a `halo` along borders that the picture does not
        have there.

        Raises:
            InputError: it has no halo, so that it cannot be cut.
        """
        if self.halo is None:
            raise InputError(f"{self.name} cannot be cut into tiles: a measurement depends on the whole picture")
        return self._with(_derived={})  # what it computes for a size is of the whole picture

    def image(self, y: Tensor) -> Tensor:
        """Show measurements as images (B, C, H, W) of the size of x, for networks; y itself if it is one."""
        return self.measured(y)

    def measured(self, y: Tensor) -> Tensor:
        """Set y to 0 where nothing was measured and a file's values are no data. Linear, per image."""
        return y

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A(x) + n, n ~ N(0, noise_std² I), see `add_noise`."""
        return add_noise(self.A(x), self.noise_std, generator, self.gain)

    def take(self, rows: Tensor) -> "BatchedPhysics":
        """Select rows (int64 indices) of the batch; does not wait for the device if they are on the CPU."""
        return self._map(lambda value: value[rows.to(value.device, non_blocking=True)])._with(
            _noise_std=self.noise_std[rows.cpu()]
        )

    def expand(self, count: int) -> "BatchedPhysics":
        """Repeat the physics of one image for `count` images."""
        return self.take(torch.zeros(count, dtype=torch.int64)) if len(self) == 1 < count else self

    def to(self, device: torch.device | str) -> "BatchedPhysics":
        """Copy with the parameters on `device`."""
        return self._map(lambda value: value.to(device))

    @property
    def kind(self) -> Hashable:
        """Operators of equal kind can be joined into one."""
        shapes = tuple((key, value.shape[1:]) for key, value in self.params.items())
        return type(self), shapes

    @classmethod
    def join(cls, parts: "Sequence[BatchedPhysics]") -> "BatchedPhysics":
        """Join operators of one kind, in order; `concatenate` joins different kinds."""
        first, *others = parts
        known = [key for key in first._derived if all(key in other._derived for other in others)]
        return first._with(
            _params={key: torch.cat([part.params[key] for part in parts]) for key in first.params},
            _noise_std=torch.cat([part.noise_std for part in parts]),
            _derived={key: torch.cat([part._derived[key] for part in parts]) for key in known},
        )

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        params, derived = ({key: change(value) for key, value in held.items()} for held in (self.params, self._derived))
        return self._with(_params=params, _derived=derived)

    def _with(self, **attributes: Any) -> Self:
        """Copy with these attributes, without repeating checks and computations."""
        made = copy(self)
        vars(made).update(attributes)
        return made

    def derived(self, key: Hashable, like: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """Compute a tensor (B, ...) from the parameters; give it on the device of `like`, floats in its type.

        It is computed once; rows that are taken, joined or moved copy it.
        """
        if key not in self._derived:
            with torch.inference_mode(False), torch.no_grad():
                self._derived[key] = make()
        held = self._derived[key]
        return held.to(like.device, like.dtype if held.is_floating_point() else held.dtype, non_blocking=True)

    def check_batch(self, x: Tensor) -> None:
        """Raise InputError unless x is (len(self), C, H, W)."""
        if x.ndim != 4 or len(self) not in {1, len(x)}:
            raise InputError(
                f"{self.name}: images of shape {tuple(x.shape)}; expected ({len(self)}, C, H, W), one image "
                "per row of parameters"
            )


def per_image(
    what: str, value: PerImage, expected: str, valid: Callable[[Tensor], Tensor], dtype: torch.dtype | None = None
) -> Tensor:
    """Convert numbers to a tensor (B,), one number to (1,); raises InputError, on `what`, unless all are `valid`."""
    all_of = f"{expected}, one for all images or one per image"
    tensor = numbers(what, value, all_of, dtype)
    tensor = tensor[None] if tensor.ndim == 0 else tensor
    if tensor.ndim != 1 or len(tensor) == 0 or not bool(valid(tensor).all()):
        raise InputError(f"{what} is {tensor.tolist()}; expected {all_of}")
    return tensor


def between(low: float, high: float) -> Callable[[Tensor], Tensor]:
    """Accept finite numbers from `low` to `high`, for `per_image`."""
    return lambda tensor: tensor.isfinite() & (tensor >= low) & (tensor <= high)


def whole(low: float, high: float = float("inf")) -> Callable[[Tensor], Tensor]:
    """Accept whole numbers from `low` to `high`, for `per_image`."""
    return lambda tensor: between(low, high)(tensor) & (tensor == tensor.round())


def constant(make: Callable[..., Tensor], like: Tensor, *values: int) -> Tensor:
    """Return `make(*values)` in the type and on the device of `like`; it is made and sent there once."""
    return _constant(make, values, like.device, like.dtype)


@lru_cache(maxsize=64)
def _constant(make: Callable[..., Tensor], values: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return make(*values).to(device, dtype)


def shared(what: str, numbers: Tensor) -> float:
    """Return the number that all images share, for measurements of one size; raises InputError for several."""
    different = numbers.unique().tolist()
    if len(different) > 1:
        raise InputError(f"{what} {different} in one batch; expected one number")
    return float(different[0])
