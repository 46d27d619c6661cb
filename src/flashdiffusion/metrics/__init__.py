"""Image quality, per image: (B, 3, H, W) x 2 -> (B,); and what a call costs."""

from flashdiffusion.metrics.flops import count_gflop
from flashdiffusion.metrics.lpips import LPIPS
from flashdiffusion.metrics.quality import psnr, ssim

__all__ = ["LPIPS", "count_gflop", "psnr", "ssim"]
