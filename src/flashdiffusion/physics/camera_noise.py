"""Noise of a camera: photons are counted, and the counts are read."""

import torch
from torch import Tensor

from flashdiffusion.physics.base import BatchedPhysics, PerImage, between, per_image
from flashdiffusion.physics.denoising import Denoising
from flashdiffusion.physics.noise import NoiseStd
from flashdiffusion.physics.registry import Form, register_physics
from flashdiffusion.physics.tasks import Task


class CameraNoise(Denoising):
    """y = gain · Poisson(x / gain) + n, n ~ N(0, noise_std² I): the variance of a pixel is gain · x + noise_std².

    After another operator, as in `Compose(GaussianBlur(2.0), CameraNoise(0.01))`, x is what that gives. Solvers take
    the noise for Gaussian with the image's mean variance, noise_std² + gain · mean(y).

    Args:
        gain: y of one photon, from 0 (Gaussian noise alone) to 1, so that white is 1 / gain photons; one for all images
            or one per image.
        noise_std: σ of reading on the [0, 1] scale.

    Raises:
        InputError: a gain that is negative, not finite or above 1.
    """

    name = "camera-noise"

    def __init__(self, gain: PerImage, noise_std: NoiseStd = 0.05) -> None:
        expected = "numbers from 0 to 1 (y of one photon)"
        gains = per_image("camera gain", gain, expected, between(0, 1), torch.float32)
        BatchedPhysics.__init__(self, {"gain": gains}, noise_std)

    @property
    def gain(self) -> Tensor:
        return self.params["gain"]


register_physics(
    CameraNoise,
    forms=[Form(CameraNoise)],
    tasks=[Task("camera-noise", "gain", 0.001, 0.05, CameraNoise, ordering=(0.0, 0.1))],
)
