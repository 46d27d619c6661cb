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

    @classmethod
    def divided(cls, size: tuple[int, int], unit: int) -> Self:
        """What is left of a picture of `size` if it is cut below and to the right to sides that `unit` divides.

        A side that is shorter than `unit` stays.
        """
        height, width = (side - side % unit or side for side in size)
        return cls(0, 0, height, width)

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
