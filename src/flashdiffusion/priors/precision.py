"""Schedule and scaling constants stay in float32 when a model is cast to half precision."""

from collections.abc import Callable
from typing import Any, Self

from torch import Tensor, nn


class KeepsFloat32Buffers(nn.Module):
    """A module whose own buffers move with it, but are never cast: ᾱ_1 rounded to bfloat16 would be 1."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact: dict[str, Any] = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            setattr(self, name, buffer.to(getattr(self, name).device))
        return self
