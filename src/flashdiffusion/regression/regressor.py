"""The regressor: degraded image -> clean image in one call."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from flashdiffusion.errors import InputError, blamed_on, shown
from flashdiffusion.priors import load_component
from flashdiffusion.priors.autoencoder import to_network_range
from flashdiffusion.priors.trial import check_output, photograph
from flashdiffusion.regression.swin import SwinGroup, Windows

LARGEST_UNIT = 1024  # pixels of a window's side


class Regressor(ModelMixin, ConfigMixin):
    """y -> x = y + correction, a SwinIR (Liang et al. 2021) that works at 1 / stride of the image's resolution.

    Squares of stride x stride pixels become channels and back (pixel unshuffle and shuffle), which is what makes it
    affordable on a CPU; stride = 1 is SwinIR's layout for denoising. Rows are independent.

    Args:
        stride: side of those squares, in pixels.
        width: channels of the features, a multiple of `heads`.
        depths: blocks of each residual group.
        heads: heads of every attention.
        window: side of a window in features, even; a window sees stride * window pixels.
        mlp_ratio: width of a block's MLP over `width`.

    Raises:
        InputError: a size below 1, a width that the heads do not divide, or a window that is odd or too wide.
    """

    @register_to_config
    def __init__(
        self,
        stride: int = 4,
        width: int = 60,
        depths: Sequence[int] = (4, 4),
        heads: int = 6,
        window: int = 8,
        mlp_ratio: int = 2,
    ) -> None:
        super().__init__()
        if min(stride, width, heads, window, mlp_ratio, *depths) < 1 or stride * window > LARGEST_UNIT:
            raise InputError(
                f"stride {stride}, window {window}, depths {shown(depths)}; expected at least 1 of each size, and "
                f"stride x window of at most {LARGEST_UNIT}"
            )
        if width % heads or window % 2:
            raise InputError(
                f"width {width}, heads {heads}, window {window}; expected a width that heads divides and an even window"
            )
        pixels = 3 * stride**2
        self.head = nn.Conv2d(pixels, width, 3, padding=1)
        self.groups = nn.ModuleList(SwinGroup(width, heads, window, mlp_ratio, depth) for depth in depths)
        self.norm = nn.LayerNorm(width)
        self.body_conv = nn.Conv2d(width, width, 3, padding=1)
        self.tail = nn.Conv2d(width, pixels, 3, padding=1)
        # Untrained, it hands y back.
        for parameter in self.tail.parameters():
            nn.init.zeros_(parameter)

    def forward(self, y: Tensor) -> Tensor:
        """Measurements y (B, 3, H, W) on the [0, 1] scale (noise may leave it) -> images, not clipped, in y's type.

        Any H and W: the network sees y padded by its border to a multiple of stride * window.
        """
        stride, side = self.config.stride, self.config.window
        height, width = y.shape[2:]
        bottom, right = (-n % (stride * side) for n in (height, width))
        padded = F.pad(to_network_range(y).to(self.dtype), (0, right, 0, bottom), mode="replicate")
        shallow = self.head(F.pixel_unshuffle(padded, stride))
        windows = Windows.of(shallow.shape[2], shallow.shape[3], side, y.device)
        h = shallow.permute(0, 2, 3, 1)
        for group in self.groups:
            h = group(h, windows)
        deep = shallow + self.body_conv(self.norm(h).permute(0, 3, 1, 2))
        correction = F.pixel_shuffle(self.tail(deep), stride)[:, :, :height, :width]
        return y + correction.to(y.dtype)


@torch.no_grad()
def load_regressor(folder: Path) -> Regressor:
    """The regressor of a folder.

    Raises:
        CheckpointError: missing, of another class, weights that do not fit the config, or it fails on a photograph.
    """
    model = load_component(Regressor, folder)
    with blamed_on(folder):
        x = photograph()
        check_output(folder, "regressor", model(x), x.shape)
    return model
