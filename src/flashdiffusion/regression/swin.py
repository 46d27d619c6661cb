"""Residual Swin transformer groups (Liang et al. 2021): self-attention within windows that every other block shifts."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

BLOCKED = -100.0  # added to the logit of a pair that must not attend; finite in half precision


@dataclass(frozen=True)
class Windows:
    """The windows of one feature size, the same for all blocks.

    side: places along a window's side.
    offsets: index of each pair of a window's places into the table of relative positions, (side², side²).
    blocked: added to the logits of shifted windows, (windows, 1, side², side²): what the roll brings together
        from opposite borders does not attend to each other.
    """

    side: int
    offsets: Tensor
    blocked: Tensor

    @classmethod
    def of(cls, height: int, width: int, side: int, device: torch.device) -> "Windows":
        """Windows of features of `height` x `width`, both multiples of `side`."""
        place = torch.arange(side, device=device)
        rows, columns = (p.flatten() for p in torch.meshgrid(place, place, indexing="ij"))
        offsets = (rows[:, None] - rows + side - 1) * (2 * side - 1) + columns[:, None] - columns + side - 1

        def region(n: int) -> Tensor:  # rolled axis: 0 away from the seam, 1 before it, 2 beyond it
            i = torch.arange(n, device=device)
            return (i >= n - side).long() + (i >= n - side // 2)

        regions = 3 * region(height)[:, None] + region(width)
        regions = split(regions[None, :, :, None], side)[..., 0]
        blocked = BLOCKED * (regions[:, None, :, None] != regions[:, None, None, :])
        return cls(side, offsets, blocked)


def split(x: Tensor, side: int) -> Tensor:
    """(B, H, W, C) -> windows (B * windows, side², C)."""
    b, h, w, c = x.shape
    return x.view(b, h // side, side, w // side, side, c).transpose(2, 3).reshape(-1, side * side, c)


def join(windows: Tensor, shape: torch.Size, side: int) -> Tensor:
    """Inverse of `split`, for x of that shape."""
    b, h, w, c = shape
    return windows.view(b, h // side, w // side, side, side, c).transpose(2, 3).reshape(shape)


class WindowAttention(nn.Module):
    """Multi-head self-attention within each window, with a learned bias per head and relative position."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.position = nn.Parameter(0.02 * torch.randn(heads, (2 * side - 1) ** 2))

    def forward(self, x: Tensor, windows: Windows, shifted: bool) -> Tensor:
        n, places, width = x.shape
        # (3, n, heads, places, width / heads)
        q, k, v = self.qkv(x).view(n, places, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.position[:, windows.offsets][None]
        if shifted:
            bias = bias + windows.blocked.to(bias.dtype)
            bias = bias.repeat(n // len(bias), 1, 1, 1)
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias
        return self.out((logits.softmax(dim=-1).to(v.dtype) @ v).transpose(1, 2).reshape(n, places, width))


class SwinBlock(nn.Module):
    """x + attention(x), then x + MLP(x), both after a layer norm."""

    def __init__(self, width: int, heads: int, side: int, mlp_ratio: int, shifted: bool) -> None:
        super().__init__()
        self.shift = side // 2 if shifted else 0
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = WindowAttention(width, heads, side)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width))

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """(B, H, W, C) -> the same."""
        h = self.attention_norm(x)
        if self.shift:
            h = h.roll((-self.shift, -self.shift), dims=(1, 2))
        h = self.attention(split(h, windows.side), windows, self.shift > 0)
        h = join(h, x.shape, windows.side)
        if self.shift:
            h = h.roll((self.shift, self.shift), dims=(1, 2))
        x = x + h
        return x + self.mlp(self.mlp_norm(x))


class SwinGroup(nn.Module):
    """`depth` blocks, every other one shifted, and a convolution, around a residual connection."""

    def __init__(self, width: int, heads: int, side: int, mlp_ratio: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(SwinBlock(width, heads, side, mlp_ratio, i % 2 == 1) for i in range(depth))
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """(B, H, W, C) -> the same."""
        h = x
        for block in self.blocks:
            h = block(h, windows)
        return x + self.conv(h.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
