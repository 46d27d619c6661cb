"""Measurements with the physics that made them: rows of them are taken, joined and moved."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from flashdiffusion.errors import FlashDiffusionError, InputError, brief, is_out_of_memory
from flashdiffusion.physics import BatchedPhysics, Chain, Window, WithParams, concatenate, is_linear, noise_std_of
from flashdiffusion.physics.base import Size
from flashdiffusion.physics.noise import mean_variance
from flashdiffusion.physics.operator import NEEDS_TORCH, USE_TORCH, takes_arrays
from flashdiffusion.priors.padding import Padding
from flashdiffusion.solvers.mismatch import mismatched
from flashdiffusion.types import Physics, RowwisePhysics

Result = TypeVar("Result")
_HELD = ("estimate", "variance", "excess", "mismatch")  # what is known of each image beside its measurements, or None


class Unknown:
    """Stands for a physics that is not known; pictures are cut as if each pixel were measured by itself."""

    name = "unknown"
    halo, alignment, pixel_size = 0, 1, 1  # see `BatchedPhysics`

    def check_size(self, size: Size) -> None:
        """Accept pictures of every size."""

    def window(self, part: Window) -> "Unknown":
        """The same, of part of a picture."""
        return self

    def A(self, x: Tensor) -> Tensor:
        raise InputError("the physics of these measurements is not known; expected one")


@dataclass(frozen=True)
class Rows(ABC):
    """Measurements y (B, ...) on the [0, 1] scale and the physics that made them.

    A physics without `take` is taken to be the same for every image. Whatever a physics raises is an InputError.

    estimate: latents that restoring starts from, (B, c, h, w), and their variance at each place, (B, 1, h, w).
    excess: variance of the measurements beyond what is told, on the scale of `Problem.entry_variance`, (B,). None if
    not known. mismatch: by which blurs A differs from what is told, (B, J), see `mismatch.py`; None if A is believed.

    padding: how images are padded for the networks. Solvers then see padded images. The physics is of images of their
    own size, so that A(crop(x)) is compared with y.
    """

    y: Tensor
    physics: Physics = field(default_factory=Unknown)
    # Gives `_shown`, where that of the problem that this one was made of is known.
    _known: Callable[[], tuple[Tensor, Tensor]] | None = field(default=None, repr=False, compare=False)
    estimate: Tensor | None = None
    variance: Tensor | None = None
    excess: Tensor | None = None
    mismatch: Tensor | None = None
    padding: Padding | None = None

    @cached_property
    @abstractmethod
    def _shown(self) -> tuple[Tensor, Tensor]:
        """Tensors with a row for each image that are made of y once, and carried by take, join and to."""

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
    def noise_known(self) -> bool:
        """Whether the physics says how strong the noise is."""
        return noise_std_of(self.physics) is not None

    @property
    def noise_variance(self) -> Tensor:
        """σ_y² of each image on the [0, 1] scale, (B,); 0 where the physics does not say (`noise_std_of`).

        Of noise that grows with the signal (`BatchedPhysics.gain`) it is the mean over the image.

        Raises:
            InputError: another number of noise levels than images.
        """
        std = noise_std_of(self.physics)
        if std is None:
            return self.y.new_zeros(len(self))
        self._check_noise(std)
        gain = self.physics.gain if isinstance(self.physics, (BatchedPhysics, Chain)) else None
        return mean_variance(self.y, std, gain)

    def _check_noise(self, std: Tensor) -> None:
        if len(std) not in {1, len(self)}:
            raise InputError(
                f"physics {self.name} has {len(std)} noise levels for {len(self)} images; expected one, or one per "
                "image"
            )

    @property
    def _has_shown(self) -> bool:
        return self._known is not None or "_shown" in self.__dict__

    def _carried(self, change: Callable[[Tensor], Tensor]) -> Callable[[], tuple[Tensor, Tensor]] | None:
        """Carry what is known of this problem, changed as its rows are; nothing if it was not asked for yet."""
        if not self._has_shown:
            return None
        return lambda: (change(self._shown[0]), change(self._shown[1]))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Put measurements, and the physics if it can be moved, on `device`, and y into the precision `dtype`."""
        physics = self._call(self.physics.to, device) if hasattr(self.physics, "to") else self.physics
        return self._changed(physics, lambda value: value.to(device, dtype))

    def take(self, rows: Tensor) -> Self:
        """Take some rows (int64 indices) of the batch."""
        physics = self.physics
        if not isinstance(physics, RowwisePhysics) and (std := noise_std_of(physics)) is not None and len(std) > 1:
            self._check_noise(std)
            physics = WithParams(physics)  # the same for every image but for its noise
        own = self._call(physics.take, rows) if isinstance(physics, RowwisePhysics) else physics
        return self._changed(own, lambda value: value[rows.to(value.device, non_blocking=True)])

    def _changed(self, physics: Physics, change: Callable[[Tensor], Tensor]) -> Self:
        """The same with another physics, and every tensor of rows changed."""
        held = {name: getattr(self, name) for name in _HELD}
        known: dict[str, Any] = {name: None if value is None else change(value) for name, value in held.items()}
        return replace(self, y=change(self.y), physics=physics, _known=self._carried(change), **known)

    @property
    def kind(self) -> Hashable:
        """What problems must have in common to be joined."""
        y = (self.y.shape[1:], self.y.dtype, self.padding, *(getattr(self, name) is None for name in _HELD))
        if isinstance(self.physics, BatchedPhysics):
            return BatchedPhysics, *y
        if isinstance(self.physics, WithParams):
            return self.physics.kind, *y
        # Rows of a user's own physics can be taken, but not joined to others.
        return id(self if isinstance(self.physics, RowwisePhysics) else self.physics), *y

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Make one problem of several of one kind, in their order."""
        if len(parts) == 1:
            return parts[0]
        y = torch.cat([part.y for part in parts])

        def together() -> tuple[Tensor, Tensor]:
            return torch.cat([part._shown[0] for part in parts]), torch.cat([part._shown[1] for part in parts])

        known = together if all(part._has_shown for part in parts) else None
        held = {name: [getattr(part, name) for part in parts] for name in _HELD}
        found: dict[str, Any] = {name: None if each[0] is None else torch.cat(each) for name, each in held.items()}
        ours = [part.physics for part in parts if isinstance(part.physics, BatchedPhysics)]
        foreign = [part.physics for part in parts if isinstance(part.physics, WithParams)]
        physics: Physics = parts[0].physics
        if ours or foreign:
            physics = concatenate(ours) if ours else WithParams.join(foreign)
        return replace(parts[0], y=y, physics=physics, _known=known, **found)

    def padded(self, padding: Padding | None) -> Self:
        """Give the same, of which networks and solvers see images padded like this."""
        known = self._carried(lambda value: value)
        return self if padding == self.padding else replace(self, _known=known, padding=padding)

    def for_network(self, images: Tensor) -> Tensor:
        """Pad images (..., H, W), or what is known of their pixels, as networks are to see them."""
        return images if self.padding is None else self.padding.pad(images)

    def cropped(self, x: Tensor) -> Tensor:
        """Crop images (..., H', W') that may be padded to their own size."""
        return x if self.padding is None else self.padding.crop(x)

    def measure(self, x: Tensor, softened: bool = False) -> Tensor:
        """Give A(x) of images x, which may be padded; `softened`, as `BatchedPhysics.softened` gives it.

        Raises:
            InputError: the physics cannot take these rows, or gives measurements of another shape than y or, where x
                needs a gradient, without one.
        """
        x = self.cropped(x)
        physics = self.physics
        measured = self._call(physics.softened if softened and isinstance(physics, BatchedPhysics) else physics.A, x)
        if not isinstance(measured, Tensor):
            advice = f"; {NEEDS_TORCH}" if isinstance(measured, np.ndarray) else ""
            raise InputError(f"physics {self.name} gives a {type(measured).__name__}; expected a tensor like y{advice}")
        if measured.shape != self.y.shape:
            raise InputError(
                f"physics {self.name} gives measurements of shape {tuple(measured.shape)}; y has {tuple(self.y.shape)}"
            )
        if x.requires_grad and torch.is_grad_enabled() and not measured.requires_grad:
            raise InputError(f"physics {self.name} gives measurements without a gradient, as numpy does: {USE_TORCH}")
        return measured if self.mismatch is None else measured + mismatched(x, self.mismatch)

    def adjoint(self, y: Tensor) -> Tensor:
        """Give Aᵀy, with zeros where images are padded.

        Raises:
            InputError: the physics is not linear, or cannot take these rows.
        """
        if not is_linear(self.physics):
            raise InputError(f"physics {self.name} has no A_adjoint; expected a linear one")
        image = self._call(self.physics.A_adjoint, y)
        if self.mismatch is not None:
            image = image + mismatched(y, self.mismatch, transposed=True)
        return image if self.padding is None else self.padding.crop_transposed(image)

    def gradient(self, value: Tensor, of: Tensor, weights: Tensor | None = None) -> Tensor:
        """∂value/∂of through the physics; of more than a number, that of Σ weights · value, which can be asked again.

        Raises:
            InputError: the physics' own derivative fails.
        """
        (gradient,) = self._call(torch.autograd.grad, value, of, weights, weights is not None)
        return gradient

    def _call(self, function: Callable[..., Result], *values: object) -> Result:
        """Call the physics; whatever it raises is a fault of these images alone."""
        try:
            return function(*values)
        except FlashDiffusionError:
            raise
        except Exception as error:  # whatever a user's physics raises
            if is_out_of_memory(error):
                raise
            # torch has no class of error for a tensor that numpy cannot take, and says "numpy".
            advice = f"; {NEEDS_TORCH}" if "numpy" in str(error) or takes_arrays(function, *values[:1]) else ""
            if not advice and isinstance(error, RuntimeError) and not isinstance(self.physics, RowwisePhysics):
                advice = "; pass parameters that differ from image to image through flashdiffusion.WithParams"
            raise InputError(f"physics {self.name} failed: {type(error).__name__}: {brief(error)}{advice}") from error
