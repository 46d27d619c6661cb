"""What DeepInverse's data terms and algorithms ask of a physics, for ours; deepinv itself is not imported."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.physics.least_squares import least_squares, operator_norm

SOLVE = 50  # iterations of an inverse


class GaussianNoise:
    """Noise as DeepInverse's noise models are: `sigma` (B, 1, ...), and a call that adds it."""

    def __init__(self, sigma: Tensor) -> None:
        self.sigma = sigma

    def __call__(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return y + self.sigma.to(y) * torch.randn(y.shape, generator=generator).to(y)


class DeepInverseMethods:
    """Methods of DeepInverse's `LinearPhysics`, by `A`, `A_adjoint` and `noise_std`.

    Args of all: images x, z (B, C, H, W), measurements y, v (B, ...). Options of DeepInverse's solvers are taken and
    passed over, but `max_iter`: each image is solved for by conjugate gradients.
    """

    name: ClassVar[str]
    A: Callable[[Tensor], Tensor]

    @property
    @abstractmethod
    def noise_std(self) -> Tensor:
        """σ_y of each image, (B,)."""

    @property
    def noise_model(self) -> GaussianNoise:
        """The Gaussian noise that a call of the physics adds."""
        return GaussianNoise(self.noise_std.view(-1, 1, 1, 1).float())

    def A_vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """Give Jᵀv, J the Jacobian of A at x."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.A(x), x, v)[0]

    def A_adjoint_A(self, x: Tensor, **options: Any) -> Tensor:
        return self._adjoint(self.A(x))

    def A_A_adjoint(self, y: Tensor, **options: Any) -> Tensor:
        return self.A(self._adjoint(y))

    def A_dagger(self, y: Tensor, max_iter: int | None = None, **options: Any) -> Tensor:
        """Give A⁺y: of the images that fit y best, the one of least norm."""
        return self.prox_l2(0.0, y, float("inf"), max_iter=max_iter)

    def prox_l2(self, z: Any, y: Tensor, gamma: Any, max_iter: int | None = None, **options: Any) -> Tensor:
        """Find argmin_x γ/2 ‖A(x) - y‖² + 1/2 ‖x - z‖²; z is an image or a number for all its pixels."""
        z = z if isinstance(z, Tensor) else torch.full_like(self._adjoint(y), z or 0.0)
        weight = 1 / torch.as_tensor(gamma, dtype=y.dtype, device=y.device)
        return least_squares(self.A, self._adjoint, y, max_iter or SOLVE, start=z, proximal=weight)

    def compute_sqnorm(self, x0: Tensor, max_iter: int = SOLVE, **options: Any) -> Tensor:
        """Give ‖A‖₂², the largest of the batch."""
        return operator_norm(self.A, self._adjoint, x0, max_iter).square().max()

    def _adjoint(self, y: Tensor) -> Tensor:
        adjoint = getattr(self, "A_adjoint", None)
        if adjoint is None:
            raise InputError(f"{self.name} has no A_adjoint; expected a linear physics")
        return adjoint(y)
