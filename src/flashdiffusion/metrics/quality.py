"""PSNR and SSIM per image, by torchmetrics."""

from torch import Tensor

from flashdiffusion.metrics.registry import Metric, register


def psnr(x: Tensor, reference: Tensor) -> Tensor:
    """Compute PSNR in dB of images in [0, 1], (B, 3, H, W) x 2 -> (B,); inf where they are equal."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    return peak_signal_noise_ratio(x, reference, data_range=1.0, reduction="none", dim=(1, 2, 3))


def ssim(x: Tensor, reference: Tensor) -> Tensor:
    """Compute SSIM (Gaussian window, std 1.5) of images in [0, 1], (B, 3, H, W) x 2 -> (B,)."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    values = structural_similarity_index_measure(x, reference, data_range=1.0, reduction="none")
    assert isinstance(values, Tensor)
    return values.reshape(len(x))


register(Metric("psnr", "PSNR", higher=True, compare=psnr, digits=2))
register(Metric("ssim", "SSIM", higher=True, compare=ssim, smallest=11))  # its window
