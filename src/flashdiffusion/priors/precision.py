"""Half precision: where it pays, and what stays in float32 all the same."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn


def is_fast(dtype: torch.dtype, device: torch.device) -> bool:
    """Tell whether a device computes in this type; a CPU without the instructions is some forty times slower."""
    if device.type != "cpu" or dtype == torch.float32:
        return True
    # torch's own question before it hands a half-precision convolution to oneDNN; its name may change.
    name = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}[dtype]
    try:
        return bool(getattr(torch.ops.mkldnn, name)())
    except (AttributeError, RuntimeError):
        return False


class KeepsFloat32Buffers(nn.Module):
    """A module whose own buffers move with it, but are never cast: ᾱ_1 rounded to bfloat16 would be 1."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact: dict[str, Any] = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            setattr(self, name, buffer.to(getattr(self, name).device))
        return self
