"""What is to be solved: measurements with their physics; the only place that takes rows of them."""

from collections.abc import Callable, Hashable, Sequence, Sized
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flashdiffusion.errors import FlashDiffusionError, InputError, brief, is_out_of_memory
from flashdiffusion.physics import BatchedPhysics, WithParams, concatenate, is_linear, noise_std_of
from flashdiffusion.physics.least_squares import least_squares, operator_norm
from flashdiffusion.physics.operator import NEEDS_TORCH, USE_TORCH, takes_arrays
from flashdiffusion.types import Physics, RowwisePhysics

# Part of the energy of y that an image may leave unexplained and still be taken for what y shows.
UNLIKE = 0.1
# Noise that step sizes are tuned at, on the [0, 1] scale.
TUNED_NOISE = 0.05
Result = TypeVar("Result")


class Unknown:
    """Stands for a physics that is not known."""

    name = "unknown"

    def A(self, x: Tensor) -> Tensor:
        raise InputError("the physics of these measurements is not known; expected one")


@dataclass(frozen=True)
class Problem:
    """Measurements y (B, ...) on the [0, 1] scale and the physics that made them.

    A physics without `take` is taken to be the same for every image. Without a physics y must be images.
    """

    y: Tensor
    physics: Physics = field(default_factory=Unknown)
    # Gives `_shown`, where that of the problem that this one was made of is known.
    _known: Callable[[], tuple[Tensor, Tensor]] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.y)

    @property
    def name(self) -> str:
        """Name of the physics, for messages."""
        return str(getattr(self.physics, "name", type(self.physics).__name__))

    def check_length(self) -> None:
        """Raise InputError if the physics' parameters are for another number of images."""
        if isinstance(self.physics, Sized) and len(self.physics) != len(self.y):
            raise InputError(f"physics has parameters for {len(self.physics)} images; y has {len(self.y)}")

    @property
    def linear(self) -> bool:
        """Whether the physics has an adjoint."""
        return is_linear(self.physics)

    @property
    def noise_variance(self) -> Tensor:
        """σ_y² of each image on the [0, 1] scale, (B,); 0 where the physics does not say (`noise_std_of`).

        Raises:
            InputError: another number of noise levels than images.
        """
        std = noise_std_of(self.physics)
        if std is None:
            return self.y.new_zeros(len(self))
        self._check_noise(std)
        return std.to(self.y).square().expand(len(self))

    def _check_noise(self, std: Tensor) -> None:
        if len(std) not in {1, len(self)}:
            raise InputError(
                f"physics {self.name} has {len(std)} noise levels for {len(self)} images; expected one, or one per "
                "image"
            )

    def _carried(self, change: Callable[[Tensor], Tensor]) -> Callable[[], tuple[Tensor, Tensor]] | None:
        """Carry what is known of this problem, changed as its rows are; nothing if it was not asked for yet."""
        if self._known is None and "_shown" not in self.__dict__:
            return None
        return lambda: (change(self._shown[0]), change(self._shown[1]))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Problem":
        """Put measurements, and the physics if it can be moved, on `device`, and y into the precision `dtype`."""
        physics = self._call(self.physics.to, device) if hasattr(self.physics, "to") else self.physics
        return Problem(self.y.to(device, dtype), physics, self._carried(lambda value: value.to(device, dtype)))

    def take(self, rows: Tensor) -> "Problem":
        """Take some rows (int64 indices) of the batch."""
        physics = self.physics
        if not isinstance(physics, RowwisePhysics) and (std := noise_std_of(physics)) is not None and len(std) > 1:
            self._check_noise(std)
            physics = WithParams(physics)  # the same for every image but for its noise
        own = self._call(physics.take, rows) if isinstance(physics, RowwisePhysics) else physics
        y = self.y[rows.to(self.y.device, non_blocking=True)]
        return Problem(y, own, self._carried(lambda value: value[rows.to(value.device, non_blocking=True)]))

    @property
    def kind(self) -> Hashable:
        """What problems must have in common to be joined."""
        y = (self.y.shape[1:], self.y.dtype)
        if isinstance(self.physics, BatchedPhysics):
            return BatchedPhysics, *y
        if isinstance(self.physics, WithParams):
            return self.physics.kind, *y
        # Rows of a user's own physics can be taken, but not joined to others.
        return id(self if isinstance(self.physics, RowwisePhysics) else self.physics), *y

    @classmethod
    def join(cls, parts: "Sequence[Problem]") -> "Problem":
        """Make one problem of several of one kind, in their order."""
        if len(parts) == 1:
            return parts[0]
        y = torch.cat([part.y for part in parts])

        def together() -> tuple[Tensor, Tensor]:
            return torch.cat([part._shown[0] for part in parts]), torch.cat([part._shown[1] for part in parts])

        known = together if all(part._carried(torch.clone) for part in parts) else None
        ours = [part.physics for part in parts if isinstance(part.physics, BatchedPhysics)]
        foreign = [part.physics for part in parts if isinstance(part.physics, WithParams)]
        if ours:
            return cls(y, concatenate(ours), known)
        return cls(y, WithParams.join(foreign) if foreign else parts[0].physics, known)

    @property
    def image(self) -> Tensor:
        """The measurements as images (B, 3, H, W) of the size to restore, for networks that take images.

        Our operators know how. Measurements of another linear physics that look like images, with one channel or
        three, are taken for what they are, enlarged to the size of x, if A of that image is roughly y again; what
        does not is no image, and a few steps of least squares stand for it. Of other nonlinear ones it is y.
        It is made once: what is taken from a problem, or joined, carries it.

        Raises:
            InputError: neither is an image.
        """
        image = self._shown[0]
        if image.ndim != 4 or image.shape[1] != 3 or len(image) == 0:
            if self.linear and not isinstance(self.physics, BatchedPhysics):
                what = f"physics {self.name} is one of x with shape {tuple(image.shape)}; expected images (B, 3, H, W)"
                raise InputError(what)
            raise InputError(f"measurements of shape {tuple(self.y.shape)}; expected (B, 3, H, W) with B >= 1")
        return image

    @cached_property
    def _shown(self) -> tuple[Tensor, Tensor]:
        """The image, and ‖A‖₂ of each image's operator where its y is no image, else 0, (B,)."""
        if self._known is not None:
            return self._known()
        image, norms = self.y, self.y.new_zeros(len(self.y))
        if isinstance(self.physics, BatchedPhysics):
            image = self._call(self.physics.image, self.y)
        elif self.linear:
            image = self.adjoint(self.y)
            if image.ndim == 4 and image.shape[1] == 3:
                return self._seen_by(image)
        return image, norms

    @torch.no_grad()
    def _seen_by(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """See y of a linear physics of images like these, and the norms."""
        image, norms = _enlarged(self.y, like.shape), self.y.new_zeros(len(like))
        rows = torch.arange(len(like), device=like.device) if image is None else self._unlike(image)
        image = torch.empty_like(like) if image is None else image.clone()
        if len(rows):
            image[rows], norms[rows] = self.take(rows)._estimated(like[rows])
        return image, norms

    def _unlike(self, image: Tensor) -> Tensor:
        """Find rows whose y is not what A makes of the image."""
        lost = (self.measure(image) - self.y).flatten(1).square().mean(1)
        return (lost > UNLIKE * self.y.flatten(1).square().mean(1) + 2 * self.noise_variance).nonzero()[:, 0]

    def _estimated(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate images by least squares, in which what is left of y is its noise; and ‖A‖₂."""
        noise = self.noise_variance * self.y[0].numel()
        image = least_squares(self.measure, self.adjoint, self.y, target=noise).clamp(0, 1)
        return image, operator_norm(self.measure, self.adjoint, like).clamp(min=1e-12)

    def measure(self, x: Tensor) -> Tensor:
        """Give A(x).

        Raises:
            InputError: the physics cannot take these rows, or gives measurements of another shape than y or, where x
                needs a gradient, without one.
        """
        measured = self._call(self.physics.A, x)
        if not isinstance(measured, Tensor):
            advice = f"; {NEEDS_TORCH}" if isinstance(measured, np.ndarray) else ""
            raise InputError(f"physics {self.name} gives a {type(measured).__name__}; expected a tensor like y{advice}")
        if measured.shape != self.y.shape:
            raise InputError(
                f"physics {self.name} gives measurements of shape {tuple(measured.shape)}; y has {tuple(self.y.shape)}"
            )
        if x.requires_grad and torch.is_grad_enabled() and not measured.requires_grad:
            raise InputError(f"physics {self.name} gives measurements without a gradient, as numpy does: {USE_TORCH}")
        return measured

    def adjoint(self, y: Tensor) -> Tensor:
        """Give Aᵀy.

        Raises:
            InputError: the physics is not linear, or cannot take these rows.
        """
        if not is_linear(self.physics):
            raise InputError(f"physics {self.name} has no A_adjoint; expected a linear one")
        return self._call(self.physics.A_adjoint, y)

    def gradient(self, value: Tensor, of: Tensor) -> Tensor:
        """∂value/∂of through the physics.

        Raises:
            InputError: the physics' own derivative fails.
        """
        (gradient,) = self._call(torch.autograd.grad, value, of)
        return gradient

    def seen_by(self, network: Callable[[Tensor], Result]) -> Result:
        """What a network makes of the measurements as images, asked once."""
        known = [result for other, result in self._seen if other is network]
        if not known:
            known = [network(self.image)]
            self._seen.append((network, known[0]))
        return known[0]

    @cached_property
    def _seen(self) -> list[tuple[Callable[[Tensor], Any], Any]]:
        return []

    def _call(self, function: Callable[..., Result], *values: object) -> Result:
        """Call the physics; whatever it raises is a fault of these images alone."""
        try:
            return function(*values)
        except FlashDiffusionError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            # torch has no class of error for a tensor that numpy cannot take, and says "numpy".
            advice = f"; {NEEDS_TORCH}" if "numpy" in str(error) or takes_arrays(function, *values[:1]) else ""
            if not advice and isinstance(error, RuntimeError) and not isinstance(self.physics, RowwisePhysics):
                advice = "; pass parameters that differ from image to image through flashdiffusion.WithParams"
            raise InputError(f"physics {self.name} failed: {type(error).__name__}: {brief(error)}{advice}") from error

    def residual(self, x: Tensor) -> Tensor:
        """Give r = A(x) - y on the [-1, 1] scale, as published step sizes are: twice that of the [0, 1] scale.

        It is 0 where nothing was measured (`BatchedPhysics.measured`). Measurements that are no images have a unit of
        their own: they and A are divided by ‖A‖₂, so that a step size means the same for any.
        """
        difference = self.measure(x) - self.y
        return self._measured(2 * difference) if self._plain else 2 * _times(self.scale, difference)

    def back_projection(self, x: Tensor) -> Tensor:
        """Give Aᵀ(y - A(x)) of the A and y that `residual` compares."""
        image = self.adjoint(self.y - self.measure(x))
        return image if self._plain else _times(self.scale.square(), image)

    @property
    def _plain(self) -> bool:
        """Whether measurements are on the scale of images, whatever they hold."""
        return isinstance(self.physics, BatchedPhysics) or not self.linear

    @property
    def guessed(self) -> Tensor:
        """Of which images `image` is a least-squares estimate, bool (B,): networks were not trained on such."""
        return self.y.new_zeros(len(self), dtype=torch.bool) if self._plain else self._shown[1] > 0

    @property
    def scale(self) -> Tensor:
        """What A and y are multiplied with in `residual`, (B,): 1 / ‖A‖₂ where y is no image, else 1."""
        return torch.where(self.guessed, 1 / self._shown[1], 1) if not self._plain else self.y.new_ones(len(self))

    @property
    def _loses(self) -> bool:
        return isinstance(self.physics, BatchedPhysics) and self.physics.loses

    def _measured(self, y: Tensor) -> Tensor:
        return self.physics.measured(y) if isinstance(self.physics, BatchedPhysics) and self._loses else y

    @cached_property
    def _share(self) -> Tensor:
        """Part of the entries of y that was measured, (B,)."""
        return self._measured(torch.ones_like(self.y)).flatten(1).mean(dim=1)

    @property
    def residual_variance(self) -> Tensor:
        """The mean squared residual at the true image, (B,): 4 σ_y² of what was measured, on the [-1, 1] scale."""
        return 4 * self.noise_variance * self._share * self.scale.square()

    def loss(self, x: Tensor) -> Tensor:
        """Give ‖r‖₂ of each image, (B,).

        Published step sizes are for a residual with noise in every entry. Where nothing was measured, the noise that
        would be expected there is added, which has no gradient: they mean the same for any mask. Where y is no image,
        its noise is filled up to that of an image at which steps are tuned: with less, ∇‖r‖₂ would be as long at the
        solution as far from it, and steps would lead away from it.
        """
        rows = self.residual(x).flatten(1)
        missing = None
        if self._loses:
            missing = 4 * self.noise_variance * (1 - self._share) * rows.shape[1]
        elif not self._plain:
            tuned = 4 * TUNED_NOISE**2 * x[0].numel()
            missing = (tuned - self.residual_variance * rows.shape[1]) * self.guessed
        if missing is not None:
            rows = torch.cat([rows, missing.clamp(min=0).sqrt().to(rows)[:, None]], dim=1)
        return norm(rows)


def norm(rows: Tensor) -> Tensor:
    """Take ‖·‖₂ of each row, (B,)."""
    return torch.linalg.vector_norm(rows.flatten(1), dim=1)


def _times(factors: Tensor, values: Tensor) -> Tensor:
    """Multiply each row of values (B, ...) with its factor (B,)."""
    return factors.view(-1, *[1] * (values.ndim - 1)) * values


def _enlarged(y: Tensor, shape: Sequence[int]) -> Tensor | None:
    """Enlarge y to images of `shape` (B, 3, H, W), if it has their look: (B, 1 or 3, h, w)."""
    if y.ndim != 4 or y.shape[1] not in {1, 3}:
        return None
    if y.shape[2:] != tuple(shape[2:]):
        y = F.interpolate(y, size=tuple(shape[2:]), mode="bicubic")
    return y.expand(-1, 3, -1, -1)
