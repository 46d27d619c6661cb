"""Noise alone."""

from torch import Tensor

from flashdiffusion.physics.base import BatchedPhysics, NoiseStd
from flashdiffusion.physics.registry import Form, register_physics
from flashdiffusion.physics.tasks import Task


class Denoising(BatchedPhysics):
    """y = x + n: the image is whole, and noisy.

    Args:
        noise_std: σ_y on the [0, 1] scale, one for all images or one per image.

    Raises:
        InputError: a noise_std that is negative, not finite or above 1.
    """

    name = "denoising"

    def __init__(self, noise_std: NoiseStd = 0.05) -> None:
        super().__init__({}, noise_std)

    @property
    def halo(self) -> int:
        return 0

    def A(self, x: Tensor) -> Tensor:
        self.check_batch(x)
        return x

    A_adjoint = A


register_physics(
    Denoising, forms=[Form(Denoising)], tasks=[Task("denoising", None, 0.0, 0.0, Denoising, ordering=(0.0, 0.0))]
)
