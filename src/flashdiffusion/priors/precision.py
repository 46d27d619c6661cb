"""Half precision: where it pays, and what stays in float32 all the same."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

# Instructions without which a processor of this kind converts to float32 and back: 3 to 40 times slower.
NATIVE = {
    torch.bfloat16: {"avx512_bf16", "amx_bf16"},
    torch.float16: {"avx512_fp16", "amx_fp16"},
}


def is_fast(dtype: torch.dtype, device: torch.device) -> bool:
    """Tell whether a device computes in this type rather than in spite of it."""
    if device.type != "cpu" or dtype == torch.float32:
        return True
    try:
        found = torch.cpu.get_capabilities()  # of recent versions of torch
    except AttributeError:
        found = {}
    if found.get("architecture") == "x86_64":
        return any(found.get(name) for name in NATIVE[dtype])
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
