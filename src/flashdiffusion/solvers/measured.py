"""Severity without a trained encoder: measured on a few pictures, by the physics of each measurement."""

from dataclasses import replace
from importlib.resources import as_file, files
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashdiffusion.data import load_image
from flashdiffusion.errors import InputError
from flashdiffusion.physics.least_squares import least_squares
from flashdiffusion.priors import LatentPrior
from flashdiffusion.severity import Conditions, Severity
from flashdiffusion.severity.filling import interpolated
from flashdiffusion.solvers.problem import Problem
from flashdiffusion.solvers.rows import Unknown

OWN = ("portrait.png", "photograph.jpg")  # pictures that are measured on where none are given
LEAST = 1e-6  # variance of a latent entry; smaller ones are rounding
FLAT = 1e-4  # mean square of differences of neighbouring pixels that counts as none, on the [0, 1] scale


class MeasuredSeverity(nn.Module):
    """ẑ = E0(a simple estimate), and the variance of its error as the same physics leaves it on a few pictures.

    The estimate is y as an image, with lost pixels interpolated; or, of a linear physics, least squares stopped at the
    noise: whichever is nearer to the truth on the pictures. There the error of each place of a latent is known, and so
    is how busy the estimate is there: the logarithm of the one is fitted to that of the other, by a line for each
    measurement. So severity follows the physics and its parameters, and what the estimate shows.

    It takes the place of a severity encoder (`Model.measure_severity`), and needs the physics: of an image alone it
    says nothing. A simple estimate errs alike at neighbouring places, which more noise must cover than errors of a
    trained encoder: the noise correction of presets is raised, `caution` times. Each image costs an encoding of each
    estimate of its own and of each picture: of two, or of one where the physics is not linear. The pictures
    themselves are encoded once for a batch.

    Args:
        prior: whose latents.
        pictures: (m, 3, H, W) in [0, 1], like those that will be restored; of any size, they are brought to that of the
            measurements. None for a portrait and a photograph of the library.

    Raises:
        InputError: no such pictures.
    """

    caution = 2.0
    pictures: Tensor
    config = SimpleNamespace(conditions=None)

    def __init__(self, prior: LatentPrior, pictures: Tensor | None = None) -> None:
        super().__init__()
        pictures = _own_pictures() if pictures is None else pictures
        if pictures.ndim != 4 or pictures.shape[1] != 3 or len(pictures) == 0 or not pictures.is_floating_point():
            raise InputError(
                f"pictures of shape {tuple(pictures.shape)}, {pictures.dtype}; expected (m, 3, H, W) floats"
            )
        self._prior = (prior,)  # no part of this module, which would move it twice
        self.register_buffer("pictures", pictures.float(), persistent=False)

    @property
    def prior(self) -> LatentPrior:
        """Whose latents it estimates."""
        return self._prior[0]

    def forward(self, images: Tensor, conditions: Conditions) -> Severity:
        """E0 of images; what is wrong with them cannot be said, so that no physics is doubted."""
        z = self.prior.encode(images)
        return Severity(z, torch.zeros_like(z[:, 0, 0, 0]).float())

    @torch.no_grad()
    def of_problem(self, problem: Problem) -> Severity:
        """Severity of measurements, padded as the networks need them.

        Raises:
            InputError: a physics that is not known.
        """
        if isinstance(problem.physics, Unknown):
            raise InputError("severity is measured by the physics, and it is not known; give it, or train an encoder")
        size = (problem.image.shape[2], problem.image.shape[3])
        generator = torch.Generator().manual_seed(0)
        # One noise for all rows, so that an image's severity depends on its own measurement alone.
        noise = torch.randn(len(self.pictures), *problem.y.shape[1:], generator=generator).to(problem.y)
        pairs = []
        for n, picture in enumerate(self.pictures):
            true = _fitted(picture, size).to(problem.y)
            y = (
                problem.measure(true.expand(len(problem), -1, -1, -1))
                + problem.noise_variance.sqrt().view(-1, *[1] * (problem.y.ndim - 1)) * noise[n]
            )
            y = problem.physics.measured(y) if hasattr(problem.physics, "measured") else y
            own = Problem(y, problem.physics, padding=problem.padding)
            z0 = self.prior.encode(own.for_network(true)).float()
            pairs.append([(self._encoded(one), z0) for one in _estimates(own)])
        found = [self._table([pair[kind] for pair in pairs]) for kind in range(len(pairs[0]))]
        shown = [self._encoded(one) for one in _estimates(problem)]
        return _best(found, shown)

    def _encoded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Latents of an estimate, and the logarithm of how busy it is at each place, (B, 1, h, w)."""
        z = self.prior.encode(x).float()
        down, right = (F.pad(x.diff(dim=axis), pad) for axis, pad in ((2, (0, 0, 0, 1)), (3, (0, 1))))
        energy = (down.square() + right.square()).mean(dim=1, keepdim=True).float()
        busy = F.avg_pool2d(
            F.adaptive_avg_pool2d(energy, (z.shape[2], z.shape[3])), 3, stride=1, padding=1, count_include_pad=False
        )
        return z, (busy + FLAT).log()

    def _table(self, pairs: list[tuple[tuple[Tensor, Tensor], Tensor]]) -> tuple[Tensor, ...]:
        """Fit each row's line of log variance over log busyness.

        Gives mean error, slope, level and gain, and the least and the greatest busyness of the fit, (B,) each.
        """
        errors = torch.stack([(z - z0).square().mean(dim=1) for (z, _), z0 in pairs], dim=1).flatten(1)
        busy = torch.stack([busy[:, 0] for (_, busy), _ in pairs], dim=1).flatten(1)
        logs = errors.clamp(min=LEAST).log()
        centre, level = busy.mean(dim=1, keepdim=True), logs.mean(dim=1, keepdim=True)
        slope = ((busy - centre) * (logs - level)).sum(dim=1) / (busy - centre).square().sum(dim=1).clamp(min=1e-12)
        line = level + slope[:, None] * (busy - centre)
        gain = errors.mean(dim=1) / line.exp().mean(dim=1)  # the mean of a logarithm is less than that of the number
        least, most = busy.aminmax(dim=1)
        return errors.mean(dim=1), slope, (level - slope[:, None] * centre)[:, 0], gain, least, most


def _best(found: list[tuple[Tensor, ...]], shown: list[tuple[Tensor, Tensor]]) -> Severity:
    """Of each row the estimate that erred least on the pictures, and the variances that its line gives.

    The line is followed no further than the pictures go.
    """
    best = torch.stack([error for error, *_ in found]).argmin(dim=0)
    rows = torch.arange(len(best))
    slope, level, gain, least, most = (
        torch.stack([table[n] for table in found])[best, rows].view(-1, 1, 1) for n in range(1, 6)
    )
    z, busy = (torch.stack([one[n] for one in shown])[best, rows] for n in (0, 1))
    logs = level + slope * busy[:, 0].clamp(least, most) + gain.log()
    return Severity(z, logs.exp().mean(dim=(1, 2)), logs)


def _estimates(problem: Problem) -> list[Tensor]:
    """Simple estimates of what was measured, as the networks see them."""
    image = problem.image
    if problem.loses and problem.y.shape == image.shape:
        image = interpolated(image, 1 - problem.known_pixels)
    estimates = [image]
    if problem.linear:
        energy = problem.noise_variance * problem.y[0].numel() * problem.measured_share
        own = replace(problem, padding=None)
        estimates.append(least_squares(own.measure, own.adjoint, own.y, start=image, target=energy).clamp(0, 1))
    return [problem.for_network(one) for one in estimates]


def _fitted(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut a picture (3, H, W) to the shape of `size`, and bring it to that size, (1, 3, h, w)."""
    scale = min(picture.shape[1] / size[0], picture.shape[2] / size[1])
    height, width = (round(side * scale) for side in size)
    top, left = (picture.shape[1] - height) // 2, (picture.shape[2] - width) // 2
    part = picture[None, :, top : top + height, left : left + width]
    return F.interpolate(part, size=size, mode="bicubic", antialias=True).clamp(0, 1)


def _own_pictures() -> Tensor:
    """A portrait and a photograph, and each mirrored, (4, 3, 256, 256)."""
    pictures = []
    for name in OWN:
        with as_file(files("flashdiffusion") / "assets" / name) as path:
            pictures.append(load_image(path, 256))
    own = torch.stack(pictures)
    return torch.cat([own, own.flip(3)])
