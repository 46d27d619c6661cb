"""The patch discriminator of the autoencoder's adversarial term (PatchGAN, Isola et al. 2017)."""

import itertools

import torch.nn.functional as F
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] -> one score per patch, high for real."""

    def __init__(self, width: int = 32, layers: int = 3) -> None:
        super().__init__()
        channels = [3, *(width * 2**i for i in range(layers))]
        blocks: list[nn.Module] = []
        for i, (inputs, outputs) in enumerate(itertools.pairwise(channels)):
            blocks.append(nn.Conv2d(inputs, outputs, 4, 2, 1))
            if i > 0:
                blocks.append(nn.GroupNorm(8, outputs))
            blocks.append(nn.LeakyReLU(0.2))
        self.net = nn.Sequential(*blocks, nn.Conv2d(channels[-1], 1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Discriminator's hinge loss (Lim & Ye 2017)."""
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
