"""The blur-kernel-space network of Tran et al.: a sharp image and a kernel code -> a blurred image."""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from flashdiffusion.errors import InputError, blamed_on

CODE_CHANNELS = 512
STRIDE = 128  # pixels per entry of the code: two strided convolutions, then a U-Net of five levels
_FEATURES = 64
_WIDTHS = (64, 64, 128, 256, 512, 512)  # of the U-Net, from the features to its deepest level
_FRONT_BLOCKS, _BACK_BLOCKS = 10, 20
_UNUSED = "kernel_extractor."  # estimates the code from a pair of images


class KernelWizard(nn.Module):
    """Operator G of "Explore Image Deblurring via Encoded Blur Kernel Space" (Tran et al., CVPR 2021).

    Blurred = sharp + R(U(F(sharp), code)): features at a quarter of the size, a U-Net that takes the code in at its
    deepest level, and a reconstruction. Names of the weights are those of the published checkpoint
    (GOPRO_wVAE.pth of VinAIResearch/blur-kernel-space-exploring); its kernel extractor is not needed.
    """

    def __init__(self) -> None:
        super().__init__()
        width = _FEATURES
        self.feature_extractor = nn.Sequential(
            *(nn.Conv2d(3, width, 3, padding=1), nn.LeakyReLU(0.1)),
            *(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.LeakyReLU(0.1)),
            *(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.LeakyReLU(0.1)),
            *(_Residual(width) for _ in range(_FRONT_BLOCKS)),
        )
        self.adapter = nn.ModuleDict({"model": _Level(0)})
        self.recon_trunk = nn.Sequential(
            *(_Residual(width) for _ in range(_BACK_BLOCKS)),
            *(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.LeakyReLU(0.1)),
            *(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.LeakyReLU(0.1)),
            *(nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(width, 3, 3, padding=1)),
        )

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Blur x (B, 3, H, W) in [0, 1] by code (B, 512, H / 128, W / 128) -> (B, 3, H, W), not clipped."""
        return x + self.recon_trunk(self.adapter["model"](self.feature_extractor(x), code))

    @classmethod
    def from_file(cls, path: str | Path) -> "KernelWizard":
        """Load the network, ready for use; raises InputError if there is no such file or it is of another network."""
        path = Path(path)
        if not path.is_file():
            raise InputError(f"no blur-kernel-space weights at {path}; expected the published GOPRO_wVAE.pth")
        network = cls()
        with blamed_on(f"{path} holds no weights of the blur-kernel-space network"):
            safe = path.suffix == ".safetensors"
            weights = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
            network.load_state_dict({key: value for key, value in weights.items() if not key.startswith(_UNUSED)})
        return network.float().requires_grad_(False).eval()


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


class _Level(nn.Module):
    """One level of the U-Net: down, the level below (or, at the deepest, the code beside it), up."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        outer, inner = _WIDTHS[depth], _WIDTHS[depth + 1]
        self.first = depth == 0
        down = nn.Conv2d(outer, inner, 4, stride=2, padding=1, bias=False)
        up = nn.ConvTranspose2d(2 * inner, outer, 4, stride=2, padding=1, bias=self.first)
        self.down = nn.Sequential(down) if self.first else nn.Sequential(nn.LeakyReLU(0.2), down)
        self.submodule = _Level(depth + 1) if depth + 2 < len(_WIDTHS) else None
        self.up = nn.Sequential(nn.ReLU(), up, nn.Tanh()) if self.first else nn.Sequential(nn.ReLU(), up)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        below = self.down(x)
        below = torch.cat([below, code], dim=1) if self.submodule is None else self.submodule(below, code)
        above = self.up(below)
        return above if self.first else torch.cat([above, x], dim=1)
