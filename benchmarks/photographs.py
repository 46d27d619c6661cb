"""What photographs are restored with where there is no network: baselines of scikit-image, as methods.

A plugin. It adds the methods `wiener`, `richardson-lucy` and `tv` for blurs, `biharmonic` for lost pixels and
`enlarged` for super-resolution (bicubic), and the tasks `blur-1.6` (Gaussian, std 1.6 pixels) and `lost-75` (75 % of
the pixels). Pictures are continued by reflection where a method takes them for periodic.

flashdiffusion --plugin benchmarks/photographs.py evaluate --data VAL --model photos --task blur-1.6 \
    --noise-std 0.00784 --method flash --method wiener:balance=0.003 --method tv:tv_weight=0.0003 --lpips LPIPS \
    --out RUN
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from skimage import restoration
from torch import Tensor

from flashdiffusion.errors import UnsuitedError
from flashdiffusion.physics import GaussianBlur, get_task
from flashdiffusion.physics.tasks import register_task
from flashdiffusion.priors import LatentPrior
from flashdiffusion.schedule import Grid
from flashdiffusion.solvers import Problem, Start
from flashdiffusion.solvers.registry import register_start, setting

Array = NDArray[np.float64]
REACH = 24  # pixels that a picture is continued by, and half the side of a kernel


register_task(replace(get_task("gaussian-blur"), name="blur-1.6", low=1.6, high=1.6))
register_task(replace(get_task("random-inpainting"), name="lost-75", low=0.75, high=0.75))


class Baseline(ABC):
    """A start that is the end: `image` makes it of one picture's measurement."""

    @torch.no_grad()
    def __call__(self, problem: Problem, prior: LatentPrior, grid: Grid, noise: Tensor) -> Start:
        own = replace(problem, padding=None)
        parts = [self.image(own.take(torch.tensor([row]))) for row in range(len(own))]
        images = torch.cat(parts).clamp(0, 1).to(problem.y)
        return Start(noise, torch.zeros(len(problem), dtype=torch.int64), image=images)

    @abstractmethod
    def image(self, problem: Problem) -> Tensor:
        """The restored picture, (1, 3, H, W)."""


def channels(image: Tensor) -> Array:
    """(1, 3, H, W) -> (H, W, 3)."""
    return image[0].permute(1, 2, 0).double().cpu().numpy()


def tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)[None].float()


def continued(image: Tensor) -> Array:
    return channels(F.pad(image, [REACH] * 4, mode="reflect"))


def kernel(problem: Problem) -> Array:
    """What a blur makes of one bright pixel, (2 REACH + 1, 2 REACH + 1)."""
    if problem.name != GaussianBlur.name:
        raise UnsuitedError(f"this baseline is for {GaussianBlur.name}, not for {problem.name}")
    if min(problem.y.shape[2:]) <= 2 * REACH:
        raise UnsuitedError(f"this baseline is for pictures of more than {2 * REACH} pixels a side")
    image = torch.zeros_like(problem.y)
    row, column = (side // 2 for side in image.shape[2:])
    image[:, :, row, column] = 1
    around = problem.measure(image)[0, 0, row - REACH : row + REACH + 1, column - REACH : column + REACH + 1]
    return around.double().cpu().numpy()


class Deconvolution(Baseline):
    """A baseline that takes a picture colour by colour, with the kernel of its blur."""

    def image(self, problem: Problem) -> Tensor:
        of, planes = kernel(problem), np.moveaxis(continued(problem.y), -1, 0)
        done = np.stack([self.plane(plane, of) for plane in planes], axis=-1)
        return tensor(done[REACH:-REACH, REACH:-REACH])

    @abstractmethod
    def plane(self, blurred: Array, of: Array) -> Array:
        """One colour (H, W), sharpened; `of` is the kernel."""


@register_start("wiener", alone="wiener")
@dataclass(frozen=True)
class Wiener(Deconvolution):
    """Wiener's filter with a Laplacian as the prior."""

    balance: float = setting(0.01, "Weight of the prior of Wiener's filter.", (0.0001, 0.1))

    def plane(self, blurred: Array, of: Array) -> Array:
        return restoration.wiener(blurred, of, self.balance, clip=False)


@register_start("richardson-lucy", alone="richardson-lucy")
@dataclass(frozen=True)
class RichardsonLucy(Deconvolution):
    """Richardson and Lucy's iterations; what stops them early is the prior."""

    iterations: int = setting(10, "Iterations of Richardson and Lucy.", (5, 50))

    def plane(self, blurred: Array, of: Array) -> Array:
        return restoration.richardson_lucy(blurred.clip(0, 1), of, self.iterations)


@register_start("tv", alone="tv")
@dataclass(frozen=True)
class TotalVariation(Baseline):
    """argmin ‖A x - y‖² / 2 + weight TV(x), by FISTA; the proximal step of TV is Chambolle's."""

    tv_weight: float = setting(0.002, "Weight of total variation.", (0.0005, 0.02))
    tv_steps: int = setting(30, "Steps of FISTA.")

    def image(self, problem: Problem) -> Tensor:
        x = ahead = problem.image
        momentum = 1.0
        for _ in range(self.tv_steps):
            step = ahead - problem.adjoint(problem.measure(ahead) - problem.y)
            smooth = restoration.denoise_tv_chambolle(
                channels(step), self.tv_weight, max_num_iter=20, eps=1e-5, channel_axis=-1
            )
            before, x = x, tensor(smooth).to(step)
            further = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead, momentum = x + (momentum - 1) / further * (x - before), further
        return x


@register_start("biharmonic", alone="biharmonic")
@dataclass(frozen=True)
class Biharmonic(Baseline):
    """Lost pixels by the biharmonic equation; those that were kept stay as they are."""

    def image(self, problem: Problem) -> Tensor:
        lost = problem.conditions.lost[0, 0].cpu().numpy() > 0
        if not lost.any():
            raise UnsuitedError(f"this baseline is for lost pixels, and {problem.name} loses none")
        return tensor(restoration.inpaint_biharmonic(channels(problem.y), lost, channel_axis=-1))


@register_start("enlarged", alone="enlarged")
@dataclass(frozen=True)
class Enlarged(Baseline):
    """The measurement as an image of the size of x: of super-resolution, enlarged (bicubic)."""

    def image(self, problem: Problem) -> Tensor:
        return problem.image
