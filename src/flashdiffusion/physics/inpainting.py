"""Inpainting: pixels are lost."""

from typing import Self

import torch
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.physics.base import BatchedPhysics


class RandomInpainting(BatchedPhysics):
    """Random pixels are dropped, all channels together; dropped pixels read 0 (plus noise).

    Args:
        mask: (B, 1, H, W), 1 where a pixel was kept and 0 where it was dropped.
        noise_std: σ_y on the [0, 1] scale.

    Raises:
        InputError: a mask of another shape, or with values other than 0 and 1.
    """

    name = "random-inpainting"

    def __init__(self, mask: Tensor, noise_std: float = 0.05) -> None:
        if mask.ndim != 4 or mask.shape[1] != 1:
            raise InputError(f"mask of shape {tuple(mask.shape)}; expected (B, 1, H, W)")
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise InputError("mask has values other than 0 (dropped) and 1 (kept)")
        super().__init__({"mask": mask.float()}, noise_std)

    @classmethod
    def from_ratio(
        cls,
        ratio: Tensor,
        size: tuple[int, int],
        generator: torch.Generator | None = None,
        noise_std: float = 0.05,
    ) -> Self:
        """Draw a mask per picture that drops each pixel with probability `ratio` (B,) in [0, 1].

        Raises:
            InputError: a ratio outside [0, 1].
        """
        if ratio.ndim != 1 or not bool(((ratio >= 0) & (ratio <= 1)).all()):
            raise InputError(f"ratio is {ratio.tolist()}; expected numbers in [0, 1], one per picture")
        field = torch.rand(len(ratio), 1, *size, generator=generator, device=generator.device if generator else "cpu")
        return cls((field.to(ratio.device) >= ratio.view(-1, 1, 1, 1)).float(), noise_std)

    @classmethod
    def from_params(cls, params: dict[str, Tensor], noise_std: float) -> Self:
        if set(params) != {"mask"}:
            raise InputError(f"random-inpainting has the parameter mask; got {sorted(params)}")
        return cls(params["mask"], noise_std)

    def describe(self) -> list[dict[str, float | str]]:
        dropped = 1 - self.params["mask"].mean(dim=(1, 2, 3))
        return [{"physics": self.name, "ratio": round(r, 4)} for r in dropped.tolist()]

    def A(self, x: Tensor) -> Tensor:
        self.check_batch(x)
        if x.shape[2:] != self.params["mask"].shape[2:]:
            raise InputError(
                f"pictures of {tuple(x.shape[2:])} pixels with a mask of {tuple(self.params['mask'].shape[2:])}; "
                "expected the same size"
            )
        return x * self.params["mask"].to(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.A(y)
