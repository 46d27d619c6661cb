"""Degradations: one file per family of operators; `tasks.py` draws their parameters."""

from flashdiffusion.physics.base import BatchedLinearPhysics, BatchedPhysics
from flashdiffusion.physics.blur import GaussianBlur
from flashdiffusion.physics.blur_kernel_space import BlurKernelSpace
from flashdiffusion.physics.compose import Compose
from flashdiffusion.physics.foreign import WithParams, is_linear, noise_std_of
from flashdiffusion.physics.hdr import HDR
from flashdiffusion.physics.inpainting import BoxInpainting, RandomInpainting
from flashdiffusion.physics.jpeg import JPEG
from flashdiffusion.physics.kernel_wizard import KernelWizard
from flashdiffusion.physics.mixed import Mixed, concatenate
from flashdiffusion.physics.motion_blur import MotionBlur
from flashdiffusion.physics.nonlinear_blur import CameraShake
from flashdiffusion.physics.parse import drawn_by, parse_physics
from flashdiffusion.physics.phase_retrieval import PhaseRetrieval
from flashdiffusion.physics.super_resolution import SuperResolution
from flashdiffusion.physics.tasks import TASKS, Mixture, Task, get_task

# Operators by the name that measurement files carry; BlurKernelSpace is none of them, for it needs its network too.
OPERATORS: dict[str, type[BatchedPhysics]] = {
    cls.name: cls
    for cls in (
        GaussianBlur,
        RandomInpainting,
        BoxInpainting,
        SuperResolution,
        MotionBlur,
        CameraShake,
        JPEG,
        PhaseRetrieval,
        HDR,
        Compose,
    )
}

__all__ = [
    "OPERATORS",
    "TASKS",
    "BatchedLinearPhysics",
    "BatchedPhysics",
    "BlurKernelSpace",
    "BoxInpainting",
    "CameraShake",
    "Compose",
    "GaussianBlur",
    "HDR",
    "JPEG",
    "KernelWizard",
    "Mixed",
    "Mixture",
    "MotionBlur",
    "PhaseRetrieval",
    "RandomInpainting",
    "SuperResolution",
    "Task",
    "WithParams",
    "concatenate",
    "drawn_by",
    "get_task",
    "is_linear",
    "noise_std_of",
    "parse_physics",
]
