"""Parts of a picture."""

from dataclasses import dataclass
from typing import Self

from torch import Tensor


@dataclass(frozen=True)
class Window:
    """A rectangle of a picture, in pixels: its first row and column, its height and width."""

    top: int
    left: int
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def of(self, values: Tensor) -> Tensor:
        """Take it from pictures (..., H, W); a view."""
        return values[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def in_units(self, side: int) -> Self:
        """The same on a grid whose places are `side` x `side` pixels; the last may be covered in part."""
        bottom, right = -(-(self.top + self.height) // side), -(-(self.left + self.width) // side)
        top, left = self.top // side, self.left // side
        return type(self)(top, left, bottom - top, right - left)
