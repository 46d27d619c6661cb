"""The convolutional layers of AlexNet, SqueezeNet 1.1 and VGG-16, under torchvision's key names."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


def _vgg16() -> list[nn.Module]:
    layers: list[nn.Module] = []
    inputs = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            inputs = width
        layers.append(nn.MaxPool2d(2))
    return layers[:-1]


@dataclass(frozen=True)
class Backbone:
    """A network without its classifier.

    taps: the layers whose outputs LPIPS compares. widths: their channels. key: of its weights alone. file:
    torchvision's weights, with the start of their hash.
    """

    layers: Callable[[], list[nn.Module]]
    taps: tuple[int, ...]
    widths: tuple[int, ...]
    key: str
    file: str


BACKBONES = {
    "alex": Backbone(
        *(_alexnet, (1, 4, 7, 9, 11), (64, 192, 384, 256, 256)),
        *("features.8.weight", "alexnet-owt-7be5be79.pth"),
    ),
    "squeeze": Backbone(
        *(_squeezenet, (1, 4, 7, 9, 10, 11, 12), (64, 128, 256, 384, 384, 512, 512)),
        *("features.3.squeeze.weight", "squeezenet1_1-b8a52dc0.pth"),
    ),
    "vgg": Backbone(
        *(_vgg16, (3, 8, 15, 22, 29), (64, 128, 256, 512, 512)),
        *("features.28.weight", "vgg16-397923af.pth"),
    ),
}
