"""LPIPS v0.1 (Zhang et al., CVPR 2018) from a weights file the user has; no torchvision needed.

torchmetrics' own LPIPS imports torchvision, which has no build for every torch; hence this one.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from flashdiffusion.errors import CheckpointError, blamed_on
from flashdiffusion.metrics.registry import Metric, register


class _Fire(nn.Module):
    """SqueezeNet's fire module."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], dim=1)


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def _alexnet() -> list[nn.Module]:
    return [
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    ]


def _squeezenet() -> list[nn.Module]:
    return [
        *(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), _pool()),
        *(_Fire(64, 16, 64), _Fire(128, 16, 64), _pool()),
        *(_Fire(128, 32, 128), _Fire(256, 32, 128), _pool()),
        *(_Fire(256, 48, 192), _Fire(384, 48, 192), _Fire(384, 64, 256), _Fire(512, 64, 256)),
    ]


# Layers; which of them are compared, and their channels.
_NETS: dict[str, tuple[Callable[[], list[nn.Module]], tuple[int, ...], tuple[int, ...]]] = {
    "alex": (_alexnet, (1, 4, 7, 9, 11), (64, 192, 384, 256, 256)),
    "squeeze": (_squeezenet, (1, 4, 7, 9, 10, 11, 12), (64, 128, 256, 384, 384, 512, 512)),
}


class LPIPS(nn.Module):
    """Learned perceptual distance between images in [0, 1]: (B, 3, H, W) x 2 -> (B,).

    Weights: a safetensors file with torchvision's `features.*` keys and the heads `lin*.weight`; the
    network (alex or squeeze) is recognised from it. Frozen, but differentiable in both images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: str) -> None:
        super().__init__()
        self.net = net
        layers, self._taps, widths = _NETS[net]
        self.features = nn.ModuleList(layers())
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in widths)
        self.register_buffer("mean", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @classmethod
    def from_file(cls, path: str | Path) -> "LPIPS":
        """Load weights; raises CheckpointError if the file is missing or holds neither network."""
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f"no LPIPS weights at {path}; give a safetensors file (docs/training.md)")
        with blamed_on(f"{path} is not a safetensors file"):
            state = load_file(path)
        model = cls("squeeze" if "features.3.squeeze.weight" in state else "alex")
        named = {re.sub(r"^lin(\d+).*", r"heads.\1.weight", key): value for key, value in state.items()}
        with blamed_on(f"{path}: not LPIPS weights of AlexNet or SqueezeNet 1.1"):
            model.load_state_dict(named)
        return model

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        for a, b, head in zip(self._maps(x), self._maps(reference), self.heads, strict=True):
            total = total + head((_unit(a) - _unit(b)).square()).mean(dim=(1, 2, 3))
        return total

    def _maps(self, x: Tensor) -> list[Tensor]:
        h = (2 * x - 1 - self.mean) / self.std
        maps = []
        for index, layer in enumerate(self.features):
            h = cast(Tensor, layer(h))
            if index in self._taps:
                maps.append(h)
        return maps


def _unit(h: Tensor) -> Tensor:
    return h / (h.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


# AlexNet's strides leave nothing of smaller images.
register(Metric("lpips", "LPIPS", higher=False, load=LPIPS.from_file, smallest=31, digits=4))
