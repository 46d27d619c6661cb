"""LPIPS v0.1 (Zhang et al., CVPR 2018); no torchvision needed.

torchmetrics' own LPIPS imports torchvision, which has no build for every torch; hence this one, with its heads.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from flashdiffusion.errors import CheckpointError, blamed_on
from flashdiffusion.metrics.backbones import BACKBONES
from flashdiffusion.metrics.registry import Metric, register

DOWNLOADS = "https://download.pytorch.org/models/"
# Of torchvision's classifiers, and of what the `lpips` package keeps beside, or twice.
_UNUSED = ("classifier.", "scaling_layer.", "lins.")


class LPIPS(nn.Module):
    """Learned perceptual distance between images in [0, 1]: (B, 3, H, W) x 2 -> (B,).

    Frozen, but differentiable in both images.

    Args:
        net: alex, squeeze or vgg.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: str) -> None:
        super().__init__()
        self.net, backbone = net, BACKBONES[net]
        self._taps = backbone.taps
        self.features = nn.ModuleList(backbone.layers())
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in backbone.widths)
        self.register_buffer("mean", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @classmethod
    def load(cls, source: str | Path) -> "LPIPS":
        """Load by the name of a network, or from a file; raises CheckpointError, see `from_name` and `from_file`."""
        return cls.from_name(str(source)) if str(source) in BACKBONES else cls.from_file(source)

    @classmethod
    def from_name(cls, net: str) -> "LPIPS":
        """Load alex, squeeze or vgg: torchvision's weights from torch's hub folder, torchmetrics' heads.

        Weights that are not in that folder are downloaded into it.

        Raises:
            CheckpointError: they cannot be, or are damaged.
        """
        url, folder = DOWNLOADS + BACKBONES[net].file, Path(torch.hub.get_dir()) / "checkpoints"
        with blamed_on(f"LPIPS {net} needs {url} in {folder}, or a file of its weights instead (docs/metrics.md)"):
            state = torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
            with (files("torchmetrics") / "functional/image/lpips_models" / f"{net}.pth").open("rb") as heads:
                state = {**state, **torch.load(heads, map_location="cpu", weights_only=True)}
            return cls._of(state)

    @classmethod
    def from_file(cls, path: str | Path) -> "LPIPS":
        """Load a file that has backbone and heads, whose network is recognised.

        Args:
            path: safetensors, or of torch (.pth, .pt). With torchvision's keys `features.*` and the heads
                `lin*.weight`, or those of the `lpips` package.

        Raises:
            CheckpointError: the file is missing, or holds none of the networks.
        """
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(
                f"no LPIPS weights at {path}; give a file of them (docs/metrics.md), or one of {', '.join(BACKBONES)}"
            )
        pickled = path.suffix in {".pth", ".pt"}
        with blamed_on(f"{path} is not a {'file of torch' if pickled else 'safetensors file'}"):
            state = torch.load(path, map_location="cpu", weights_only=True) if pickled else load_file(path)
        with blamed_on(f"{path}: not LPIPS weights of {', '.join(BACKBONES)}"):
            return cls._of(state)

    @classmethod
    def _of(cls, state: Mapping[str, Tensor]) -> "LPIPS":
        named = {
            re.sub(r"^lin(\d+).*", r"heads.\1.weight", re.sub(r"^net\.slice\d+\.", "features.", key)): value
            for key, value in state.items()
            if not key.startswith(_UNUSED)
        }
        model = cls(next((net for net, one in BACKBONES.items() if one.key in named), "alex"))
        model.load_state_dict(named)
        return model

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        for a, b, head in zip(self._maps(x), self._maps(reference), self.heads, strict=True):
            total = total + head((_unit(a) - _unit(b)).square()).mean(dim=(1, 2, 3))
        return total

    def pooled(self, x: Tensor) -> Tensor:
        """Features of the last layer, averaged over places, (B, 3, H, W) in [0, 1] -> (B, channels)."""
        return self._maps(x)[-1].mean(dim=(2, 3))

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
register(Metric("lpips", "LPIPS", higher=False, load=LPIPS.load, smallest=31, digits=4, net="alex"))
