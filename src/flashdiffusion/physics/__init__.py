"""Degradations: one file per family of operators, each registered where it is defined."""

from importlib import import_module
from pkgutil import iter_modules

from flashdiffusion.physics.base import BatchedPhysics, per_image
from flashdiffusion.physics.blur import GaussianBlur
from flashdiffusion.physics.blur_kernel_space import BlurKernelSpace
from flashdiffusion.physics.camera_noise import CameraNoise
from flashdiffusion.physics.compose import Compose
from flashdiffusion.physics.defocus import Defocus
from flashdiffusion.physics.denoising import Denoising
from flashdiffusion.physics.foreign import Chain, WithParams, flattened, is_linear, noise_std_of
from flashdiffusion.physics.hdr import HDR
from flashdiffusion.physics.inpainting import BoxInpainting, RandomInpainting
from flashdiffusion.physics.jpeg import JPEG
from flashdiffusion.physics.kernel_blur import Blur
from flashdiffusion.physics.kernel_wizard import KernelWizard
from flashdiffusion.physics.mixed import Mixed, concatenate
from flashdiffusion.physics.motion_blur import MotionBlur
from flashdiffusion.physics.noise_estimate import estimate_noise_std
from flashdiffusion.physics.nonlinear_blur import CameraShake
from flashdiffusion.physics.operator import Operator
from flashdiffusion.physics.phase_retrieval import PhaseRetrieval
from flashdiffusion.physics.registry import PHYSICS, Form, register_physics
from flashdiffusion.physics.super_resolution import SuperResolution
from flashdiffusion.physics.tasks import TASKS, Mixture, Task, get_task
from flashdiffusion.physics.windows import Window

__all__ = [
    "BatchedPhysics",
    "Blur",
    "BlurKernelSpace",
    "BoxInpainting",
    "CameraNoise",
    "CameraShake",
    "Chain",
    "Compose",
    "Defocus",
    "Denoising",
    "Form",
    "GaussianBlur",
    "HDR",
    "JPEG",
    "KernelWizard",
    "Mixed",
    "Mixture",
    "MotionBlur",
    "Operator",
    "PHYSICS",
    "PhaseRetrieval",
    "RandomInpainting",
    "SuperResolution",
    "TASKS",
    "Task",
    "Window",
    "WithParams",
    "concatenate",
    "estimate_noise_std",
    "flattened",
    "get_task",
    "is_linear",
    "noise_std_of",
    "per_image",
    "register_physics",
]

# Every file of this folder is read, so that one which registers something need not be named anywhere.
for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
