"""Operators for four images, by name: what every operator promises is tried on each."""

import torch

from flashdiffusion.physics import (
    HDR,
    JPEG,
    BatchedPhysics,
    Blur,
    BoxInpainting,
    CameraNoise,
    CameraShake,
    Compose,
    Defocus,
    Denoising,
    GaussianBlur,
    MotionBlur,
    PhaseRetrieval,
    RandomInpainting,
    SuperResolution,
)


def examples(size: tuple[int, int]) -> dict[str, list[BatchedPhysics]]:
    """Make them anew, for images of `size` (H, W), at least 24 x 20."""

    def seeded(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    blur, std = GaussianBlur([0.0, 0.7, 1.5, 3.0]), [0.0, 0.7, 1.5, 3.0]
    holes = RandomInpainting.from_ratio([0.7] * 4, size, seeded(1))
    return {
        "gaussian-blur": [GaussianBlur([0.0, 0.3, 1.7, 4.5])],
        "blur": [
            Blur(torch.rand(4, 1, 5, 8, generator=seeded(3))),
            Blur(torch.rand(4, 3, 6, 7, generator=seeded(4))),
        ],
        "defocus": [Defocus([0.5, 1.3, 2.5, 4.0])],
        "motion-blur": [MotionBlur.from_std(std, seeded(3))],
        "nonlinear-blur": [CameraShake.from_std(std, seeded(3))],
        "random-inpainting": [holes],
        "box-inpainting": [BoxInpainting([0, 3, 20, 5], [0, 2, 0, 5], [0, 9, 4, 1], [0, 5, 20, 1])],
        "super-resolution": [SuperResolution([4, 4, 4, 4])],
        "phase-retrieval": [PhaseRetrieval([2.0] * 4)],
        "hdr": [HDR([1.0, 1.5, 2.0, 3.0])],
        "jpeg": [JPEG([1, 20, 50, 95])],
        "denoising": [Denoising([0.05] * 4)],
        "camera-noise": [CameraNoise([0.0, 0.001, 0.01, 0.1])],
        "composed": [
            Compose(blur, JPEG([1, 20, 50, 95])),
            Compose(blur, SuperResolution(2)),
            Compose(Compose(blur, holes), PhaseRetrieval(2.0)),
        ],
    }
