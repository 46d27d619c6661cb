"""A parameter that is no number is refused by name: with what it was, and what was expected."""

import pytest
import torch

from flashdiffusion.errors import InputError
from flashdiffusion.physics import (
    HDR,
    JPEG,
    Blur,
    BoxInpainting,
    CameraNoise,
    CameraShake,
    Defocus,
    Denoising,
    GaussianBlur,
    MotionBlur,
    PhaseRetrieval,
    RandomInpainting,
    SuperResolution,
)

WRONG = ["auto", None, [1.0, "2"], object()]
MADE = {
    "blur std": GaussianBlur,
    "jpeg quality": JPEG,
    "hdr scale": HDR,
    "camera gain": CameraNoise,
    "defocus radius": Defocus,
    "oversampling": PhaseRetrieval,
    "super-resolution factor": SuperResolution,
    "box top": lambda value: BoxInpainting(value, 0, 1, 1),
    "box width": lambda value: BoxInpainting(0, 0, 1, value),
    "mask": RandomInpainting,
    "kernel": CameraShake,
    "gamma": lambda value: CameraShake(_KERNEL, value),
    "motion length": lambda value: MotionBlur(_KERNEL, length=value),
}
_KERNEL = torch.zeros(1, 1, 31, 31)
_KERNEL[..., 15, 15] = 1


@pytest.mark.parametrize("wrong", WRONG, ids=["text", "nothing", "text in a list", "object"])
@pytest.mark.parametrize("what", MADE)
def test_parameters(what, wrong):
    with pytest.raises(InputError, match=f"^{what} is .*; expected "):
        MADE[what](wrong)


@pytest.mark.parametrize("wrong", WRONG, ids=["text", "nothing", "text in a list", "object"])
@pytest.mark.parametrize("cls", [GaussianBlur, JPEG, Denoising])
def test_noise(cls, wrong):
    with pytest.raises(InputError, match=r"noise std is .*; expected a number >= 0.*; estimate_noise_std\(y\)"):
        cls(*([] if cls is Denoising else [50.0]), noise_std=wrong)


def test_complex_numbers_and_what_is_no_kernel():
    with pytest.raises(InputError, match=r"blur std is .*; expected numbers from 0"):
        GaussianBlur(torch.tensor([1j]))
    for wrong in ("auto", None):
        with pytest.raises(InputError, match="kernel"):
            Blur(wrong)
