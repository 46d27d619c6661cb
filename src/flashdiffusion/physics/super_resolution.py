"""Super-resolution: the measurement is a smaller image."""

from collections.abc import Hashable

import torch
import torch.nn.functional as F
from torch import Tensor

from flashdiffusion.errors import InputError, sized
from flashdiffusion.physics.base import BatchedPhysics, NoiseStd, PerImage, constant, per_image, shared, whole
from flashdiffusion.physics.registry import Form, register_physics
from flashdiffusion.physics.tasks import Task
from flashdiffusion.physics.windows import Window

MAX_FACTOR = 16


class SuperResolution(BatchedPhysics):
    """Bicubic downsampling with antialiasing, as Pillow's and PyTorch's `antialias=True` do it.

    The cubic (a = -1/2) is stretched by the factor and cut and renormalised at the borders. It is separable, and
    held as the exact matrix of each axis, so that the adjoint is its transpose.

    Args:
        factor: a whole number from 1 to 16, the same for all images, for measurements are of one size.
        noise_std: σ_y on the [0, 1] scale.

    Raises:
        InputError: another factor, several, or an image whose sides are no multiples of it.
    """

    name = "super-resolution"

    def __init__(self, factor: PerImage = 4, noise_std: NoiseStd = 0.05) -> None:
        what = "super-resolution factor"
        factors = per_image(what, factor, f"whole numbers from 1 to {MAX_FACTOR}", whole(1, MAX_FACTOR))
        self.factor = int(shared(what, factors))  # a number, so that A does not wait for the device
        super().__init__({"factor": factors.to(torch.int64)}, noise_std)

    @property
    def kind(self) -> Hashable:
        return super().kind, self.factor

    @property
    def halo(self) -> int:
        return 0 if self.factor == 1 else 2 * self.factor  # the cubic reaches 3/2 of a pixel of y beyond it

    @property
    def alignment(self) -> int:
        return self.factor

    @property
    def pixel_size(self) -> int:
        return self.factor

    def A(self, x: Tensor) -> Tensor:
        self.check_batch(x)
        height, width = x.shape[2:]
        if height % self.factor or width % self.factor:
            raise InputError(
                f"images of {sized(height, width)} cannot be made smaller {self.factor} times; expected sides that are "
                f"multiples of {self.factor}: {self._nearest(height, width)}"
            )
        return self._matrix(height, x) @ x @ self._matrix(width, x).mT

    def _nearest(self, height: int, width: int) -> str:
        """What to do with images whose sides are no multiples of the factor."""
        if min(height, width) < self.factor:
            return "take larger images"
        return f"cut them to {sized(*Window.divided((height, width), self.factor).size)}"

    def A_adjoint(self, y: Tensor) -> Tensor:
        self.check_batch(y)
        height, width = self.factor * y.shape[2], self.factor * y.shape[3]
        return self._matrix(height, y).mT @ y @ self._matrix(width, y)

    def image(self, y: Tensor) -> Tensor:
        """Enlarge y (bicubic) to the size of x."""
        self.check_batch(y)
        return F.interpolate(y, scale_factor=self.factor, mode="bicubic")

    def _matrix(self, size: int, like: Tensor) -> Tensor:
        return constant(downsampling_matrix, like, size, self.factor)


def downsampling_matrix(size: int, factor: int) -> Tensor:
    """Build the matrix (size / factor, size) of bicubic downsampling along an axis."""
    identity = torch.eye(size, dtype=torch.float64)[None, None]
    return F.interpolate(identity, size=(size // factor, size), mode="bicubic", antialias=True)[0, 0]


def _task(name: str, factor: float, levels: tuple[float, ...]) -> Task:
    return Task(name, "factor", factor, factor, SuperResolution, ordering=(levels[0], levels[-1]), levels=levels)


register_physics(
    SuperResolution,
    forms=[Form(SuperResolution)],
    tasks=[
        _task("super-resolution", 4.0, (2.0, 4.0, 8.0)),
        *(_task(f"super-resolution-{factor}", float(factor), (2.0, 3.0, 4.0)) for factor in (2, 3, 4)),
    ],
)
