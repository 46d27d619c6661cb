"""What is to be solved: how measurements look, and how far an image is from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.physics import BatchedPhysics, noise_std_of
from flashdiffusion.physics.base import constant
from flashdiffusion.physics.least_squares import least_squares, operator_norm
from flashdiffusion.severity import Conditions, Severity, filled
from flashdiffusion.solvers.holes import find_holes
from flashdiffusion.solvers.rows import Rows

# Part of the energy of y that an image may leave unexplained and still be taken for what y shows.
UNLIKE = 0.1
# Noise that step sizes are tuned at, on the [0, 1] scale.
TUNED_NOISE = 0.05
# Of the probe, on the [0, 1] scale: small beside the image, large beside rounding.
PROBE_STD = 0.02
Result = TypeVar("Result")


@dataclass(frozen=True)
class Problem(Rows):
    """Measurements and their physics as a problem for networks and solvers. Without a physics y must be images."""

    @property
    def image(self) -> Tensor:
        """The measurements as images (B, 3, H, W) of the size to restore, for networks that take images.

        Our operators know how. Measurements of another linear physics that look like images, with one channel or
        three, are taken for what they are, enlarged to the size of x, if A of that image is roughly y again; what
        does not is no image, and a few steps of least squares stand for it. Of other nonlinear ones it is y.
        It is made once: what is taken from a problem, or joined, carries it.

        Raises:
            InputError: neither is an image.
        """
        image = self._shown[0]
        if image.ndim != 4 or image.shape[1] != 3 or len(image) == 0:
            if self.linear and not isinstance(self.physics, BatchedPhysics):
                what = f"physics {self.name} is one of x with shape {tuple(image.shape)}; expected images (B, 3, H, W)"
                raise InputError(what)
            raise InputError(f"measurements of shape {tuple(self.y.shape)}; expected (B, 3, H, W) with B >= 1")
        return image

    @cached_property
    def _shown(self) -> tuple[Tensor, Tensor]:
        """The image, and ‖A‖₂ of each image's operator where its y is no image, else 0, (B,)."""
        if self._known is not None:
            return self._known()
        if self.padding is not None:
            return replace(self, padding=None)._shown
        image, norms = self.y, self.y.new_zeros(len(self.y))
        if isinstance(self.physics, BatchedPhysics):
            image = self._call(self.physics.image, self.y)
        elif self.linear:
            image = self.adjoint(self.y)
            if image.ndim == 4 and image.shape[1] == 3:
                return self._seen_by(image)
        return image, norms

    @torch.no_grad()
    def _seen_by(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """See y of a linear physics of images like these, and the norms."""
        image, norms = _enlarged(self.y, like.shape), self.y.new_zeros(len(like))
        rows = torch.arange(len(like), device=like.device) if image is None else self._unlike(image)
        image = torch.empty_like(like) if image is None else image.clone()
        if len(rows):
            image[rows], norms[rows] = self.take(rows)._estimated(like[rows])
        return image, norms

    def _unlike(self, image: Tensor) -> Tensor:
        """Find rows whose y is not what A makes of the image."""
        lost = (self.measure(image) - self.y).flatten(1).square().mean(1)
        return (lost > UNLIKE * self.y.flatten(1).square().mean(1) + 2 * self.noise_variance).nonzero()[:, 0]

    def _estimated(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate images by least squares, in which what is left of y is its noise; and ‖A‖₂."""
        noise = self.noise_variance * self.y[0].numel()
        image = least_squares(self.measure, self.adjoint, self.y, target=noise).clamp(0, 1)
        return image, operator_norm(self.measure, self.adjoint, like).clamp(min=1e-12)

    @cached_property
    def holes(self) -> Tensor | None:
        """Which pixels of the images belong to holes, bool (B, 1, H, W), see `find_holes`; None if there are none."""
        if not self.loses or self.y.shape != self.image.shape:
            return None
        holes = find_holes(self.known_pixels)
        return holes if bool(holes.any()) else None

    @property
    def known_pixels(self) -> Tensor:
        """1 where any channel of a pixel was measured, else 0, (B, 1, H, W)."""
        return (self._measured(torch.ones_like(self.y)) != 0).any(dim=1, keepdim=True).to(self.y)

    @cached_property
    def filled(self) -> Tensor:
        """`image`, with what lies in holes filled smoothly: networks would take a hole for part of the image."""
        if self.holes is None:
            return self.image
        return torch.where(self.holes, filled(self.image, self.known_pixels), self.image)

    @property
    def conditions(self) -> Conditions:
        """What is known of each image beside itself: its noise, where y shows the image itself, and its degradation."""
        image, lost, kinds = self.image, torch.zeros_like(self.image[:, :1]), [""] * len(self)
        std = torch.full_like(lost[:, 0, 0, 0], torch.nan)
        if self.y.shape == image.shape and noise_std_of(self.physics) is not None:
            std = torch.where(self.guessed, torch.nan, self.noise_variance.sqrt().to(std))
        if isinstance(self.physics, BatchedPhysics):
            kinds = self.physics.expand(len(self)).names
            if self.loses and self.y.shape == image.shape:
                lost = 1 - self.known_pixels
        return Conditions(std, lost, kinds, self.gain.clamp(max=1))

    @property
    @torch.no_grad()
    def gain(self) -> Tensor:
        """Energy of white noise that A lets through over what goes in, (B,); 1 where y is not like x.

        A nonlinear A is tried around what y shows, so that its share is that of these brightnesses.
        """
        if not isinstance(self.physics, BatchedPhysics) or self.y.shape != self.image.shape:
            return self.y.new_ones(len(self))
        with torch.autocast(self.y.device.type, enabled=False):  # a small difference, which rounding would drown
            at = (self.image if self.linear else self.filled).to(torch.promote_types(self.y.dtype, torch.float32))
            probe = constant(white_noise, at, *at.shape[1:]).expand_as(at)
            passed = self.measure(probe) if self.linear else self.measure(at + probe) - self.measure(at)
            energy = self._measured(passed).flatten(1).square().mean(dim=1) / probe[0].square().mean()
        return energy.to(self.y)

    def severity(self, encoder: Callable[[Tensor, Conditions], Severity]) -> Severity:
        """What a severity encoder makes of the measurements as images, padded as it needs them, asked once.

        One that goes by the physics itself has `of_problem`.
        """
        if hasattr(encoder, "of_problem"):
            return self._asked(encoder, lambda: encoder.of_problem(self))
        pad = self.for_network
        return self._asked(encoder, lambda: encoder(pad(self.shown_to(encoder)), self.conditions.with_lost(pad)))

    def shown_to(self, encoder: Any) -> Tensor:
        """The measurements as images for a severity encoder: `filled`, or `image` for one that interpolates itself."""
        return self.image if getattr(encoder, "interpolates", False) else self.filled

    def seen_by(self, network: Callable[[Tensor], Result]) -> Result:
        """What a network that takes images of any size makes of the measurements as images, asked once."""
        return self._asked(network, lambda: network(self.filled))

    def _asked(self, network: Any, ask: Callable[[], Result]) -> Result:
        known = [result for other, result in self._seen if other is network]
        if not known:
            known = [ask()]
            self._seen.append((network, known[0]))
        return known[0]

    @cached_property
    def _seen(self) -> list[tuple[Any, Any]]:
        return []

    def with_exact(self, x: Tensor) -> Tensor:
        """Put into images x the pixels that a mask kept, where noise was told to be none: they are known exactly."""
        if not self.loses or self.y.shape != self.image.shape:
            return x
        std = noise_std_of(self.physics)
        if std is None or not bool((std == 0).any()):
            return x
        own, known = self.cropped(x), self._measured(torch.ones_like(self.y)) != 0
        masked = (self.measure(own) == self._measured(own)).flatten(1).all(dim=1)  # A does nothing else
        exact = (masked & (self.noise_variance == 0) & (self.measured_share < 1)).view(-1, 1, 1, 1)
        return self.for_network(torch.where(exact & known, self.y.to(own), own))

    def residual(self, x: Tensor) -> Tensor:
        """Give r = A(x) - y on the [-1, 1] scale, as published step sizes are: twice that of the [0, 1] scale.

        It is 0 where nothing was measured (`BatchedPhysics.measured`). Measurements that are no images have a unit of
        their own: they and A are divided by ‖A‖₂, so that a step size means the same for any.
        """
        return self._compared(self.measure(x))

    def soft_residual(self, x: Tensor) -> Tensor:
        """Give `residual` of an A whose rounding is softened, for fits that take it for noise, see `discounted`."""
        return self._compared(self.measure(x, softened=True))

    def discounted(self, residual: Tensor, variance: Tensor) -> Tensor:
        """Shrink a soft residual whose entries have noise of `variance` (B,) by the noise that rounding adds to it."""
        physics = self.physics
        return physics.discounted(residual, variance / 4) if isinstance(physics, BatchedPhysics) else residual

    def _compared(self, measured: Tensor) -> Tensor:
        difference = measured - self.y
        return self._measured(2 * difference) if self._plain else 2 * scaled(self.scale, difference)

    def back_projection(self, x: Tensor) -> Tensor:
        """Give Aᵀ(y - A(x)) of the A and y that `residual` compares."""
        image = self.adjoint(self.y - self.measure(x))
        return image if self._plain else scaled(self.scale.square(), image)

    @property
    def _plain(self) -> bool:
        """Whether measurements are on the scale of images, whatever they hold."""
        return isinstance(self.physics, BatchedPhysics) or not self.linear

    @property
    def guessed(self) -> Tensor:
        """Of which images `image` is a least-squares estimate, bool (B,): networks were not trained on such."""
        return self.y.new_zeros(len(self), dtype=torch.bool) if self._plain else self._shown[1] > 0

    @property
    def scale(self) -> Tensor:
        """What A and y are multiplied with in `residual`, (B,): 1 / ‖A‖₂ where y is no image, else 1."""
        return torch.where(self.guessed, 1 / self._shown[1], 1) if not self._plain else self.y.new_ones(len(self))

    @property
    def loses(self) -> bool:
        """Whether some pixels may not be measured."""
        return isinstance(self.physics, BatchedPhysics) and self.physics.loses

    def _measured(self, y: Tensor) -> Tensor:
        return self.physics.measured(y) if isinstance(self.physics, BatchedPhysics) and self.loses else y

    @cached_property
    def measured_share(self) -> Tensor:
        """Part of the entries of y that was measured, (B,)."""
        return self._measured(torch.ones_like(self.y)).flatten(1).mean(dim=1)

    @property
    def entry_variance(self) -> Tensor:
        """Variance of the noise in each measured entry of the residual, (B,): 4 σ_y², on the [-1, 1] scale."""
        return 4 * self.noise_variance * self.scale.square()

    @property
    def residual_variance(self) -> Tensor:
        """The mean squared residual at the true image, (B,), over all entries, measured or not."""
        return self.entry_variance * self.measured_share

    def loss(self, x: Tensor) -> Tensor:
        """Give ‖r‖₂ of each image, (B,).

        Published step sizes are for a residual with noise in every entry. Where nothing was measured, the noise that
        would be expected there is added, which has no gradient: they mean the same for any mask. Where y is no image,
        its noise is filled up to that of an image at which steps are tuned: with less, ∇‖r‖₂ would be as long at the
        solution as far from it, and steps would lead away from it.
        """
        rows = self.residual(x).flatten(1)
        missing = None
        if self.loses:
            missing = 4 * self.noise_variance * (1 - self.measured_share) * rows.shape[1]
        elif not self._plain:
            tuned = 4 * TUNED_NOISE**2 * x[0].numel()
            missing = (tuned - self.residual_variance * rows.shape[1]) * self.guessed
        if missing is not None:
            rows = torch.cat([rows, missing.clamp(min=0).sqrt().to(rows)[:, None]], dim=1)
        return norm(rows)


def white_noise(*shape: int) -> Tensor:
    """Faint white noise, the same for every image: a probe of what an operator lets through."""
    return PROBE_STD * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def norm(rows: Tensor) -> Tensor:
    """Take ‖·‖₂ of each row, (B,)."""
    return torch.linalg.vector_norm(rows.flatten(1), dim=1)


def scaled(factors: Tensor, values: Tensor) -> Tensor:
    """Multiply each row of values (B, ...) with its factor (B,)."""
    return factors.view(-1, *[1] * (values.ndim - 1)) * values


def _enlarged(y: Tensor, shape: Sequence[int]) -> Tensor | None:
    """Enlarge y to images of `shape` (B, 3, H, W), if it has their look: (B, 1 or 3, h, w)."""
    if y.ndim != 4 or y.shape[1] not in {1, 3}:
        return None
    size = tuple(shape[2:])
    y = y if y.shape[2:] == size else F.interpolate(y, size=size, mode="bicubic")
    return y.expand(-1, 3, -1, -1)
