"""JPEG compression."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flashdiffusion.errors import InputError
from flashdiffusion.physics.base import BatchedPhysics, NoiseStd, PerImage, between, constant, per_image
from flashdiffusion.physics.registry import Form, register_physics
from flashdiffusion.physics.tasks import Task

# Standard deviation, in steps, of the error over which the derivative of rounding is taken.
SOFTNESS = 0.2
# Standard deviation, in steps, of what softened rounding may differ by from that of the true image. Most coefficients
# are near 0, far from where rounding turns, so that it is less than if they were spread evenly, 0.2.
ROUNDING_STD = 0.04
MCU = 16  # side in pixels of what is compressed together: a block of chroma
Table = tuple[tuple[int, ...], ...]
# Annex K of ITU-T T.81: luma and chroma, at quality 50.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
# RGB -> Y, Cb, Cr of JFIF, chroma about 0.
_YCC = (
    (0.299, 0.587, 0.114),
    (-0.168735892, -0.331264108, 0.5),
    (0.5, -0.418687589, -0.081312411),
)


class JPEG(BatchedPhysics):
    """JPEG with chroma at half the size (4:2:0), compressed and read back.

    Colours to luma and chroma, chroma averaged over 2 x 2 pixels, DCT of 8 x 8 blocks, coefficients rounded to
    multiples of libjpeg's quantisation tables, and back, chroma enlarged with libjpeg's triangle filter. The
    derivative of rounding is that of its mean over a small normal error: small amid a step, where a change of the
    image goes unseen, and large at its edge. Values between the steps are not rounded to whole grey levels, as
    libjpeg's are.

    Args:
        quality: libjpeg's quality, from 1 to 100, whole or not; one for all images or one per image.
        noise_std: σ_y on the [0, 1] scale.

    Raises:
        InputError: a quality out of range, or images that are not RGB.
    """

    name = "jpeg"
    rounds = True

    def __init__(self, quality: PerImage, noise_std: NoiseStd = 0.05) -> None:
        numbers = per_image("jpeg quality", quality, "numbers from 1 to 100", between(1, 100), torch.float32)
        super().__init__({"quality": numbers}, noise_std)

    def describe(self) -> list[dict[str, float | str]]:
        return [row | {"compression": round(100 - float(row["quality"]), 4)} for row in super().describe()]

    @property
    def halo(self) -> int:
        return MCU  # chroma is enlarged by neighbours, which are of the next block

    @property
    def alignment(self) -> int:
        return MCU

    def A(self, x: Tensor) -> Tensor:
        return self._read_back(x, self._quantise).clamp(0, 1)

    def softened(self, x: Tensor) -> Tensor:
        y = self._read_back(x, self._soften)
        return y + (y.clamp(0, 1) - y).detach()  # the edge of its derivative would be one more jump

    def _read_back(self, x: Tensor, quantise: Callable[[Tensor, Table], Tensor]) -> Tensor:
        self.check_batch(x)
        if x.shape[1] != 3:
            raise InputError(f"{self.name}: images with {x.shape[1]} channels; expected 3 (RGB)")
        height, width = x.shape[2:]
        # Whole blocks of both luma and chroma: the last row and column are repeated.
        padded = F.pad(x, (0, -width % MCU, 0, -height % MCU), mode="replicate")
        ycc = 255 * torch.einsum("ij,bjhw->bihw", constant(_to_ycc, x), padded)
        luma = quantise(ycc[:, :1] - 128, _LUMA) + 128
        chroma = quantise(F.avg_pool2d(ycc[:, 1:], 2), _CHROMA)
        chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear")
        rgb = torch.einsum("ij,bjhw->bihw", constant(_to_rgb, x), torch.cat([luma, chroma], dim=1)) / 255
        return rgb[:, :, :height, :width]

    def _quantise(self, planes: Tensor, table: Table) -> Tensor:
        """Round the DCT coefficients of the 8 x 8 blocks of planes (B, C, 8 n, 8 m) in grey levels."""
        step = self._steps(table, planes)
        return _with_coefficients(planes, lambda coefficients: _round(coefficients / step) * step)

    def _soften(self, planes: Tensor, table: Table) -> Tensor:
        step = self._steps(table, planes)
        return _with_coefficients(planes, lambda coefficients: _round_softly(coefficients / step) * step)

    def discounted(self, residual: Tensor, variance: Tensor) -> Tensor:
        self.check_batch(residual)
        height, width = residual.shape[2:]
        padded = F.pad(residual, (0, -width % MCU, 0, -height % MCU), mode="replicate")
        colours = constant(_to_ycc, residual)
        ycc = torch.einsum("ij,bjhw->bihw", colours, padded)
        # White noise of the pixels in the coefficients of Y, Cb and Cr; the latter are means of 2 x 2.
        shares = colours.square().sum(dim=1) / colours.new_tensor([1, 4, 4])
        noise = variance.to(residual)[:, None] * shares
        luma = self._taken_off(ycc[:, :1], noise[:, :1], _LUMA)
        chroma = self._taken_off(F.avg_pool2d(ycc[:, 1:], 2), noise[:, 1:], _CHROMA)
        chroma = F.interpolate(chroma, scale_factor=2, mode="nearest")
        rgb = torch.einsum("ij,bjhw->bihw", constant(_to_rgb, residual), torch.cat([luma, chroma], dim=1))
        return residual - rgb[:, :, :height, :width]

    def _taken_off(self, planes: Tensor, noise: Tensor, table: Table) -> Tensor:
        """Take from planes (B, C, 8 n, 8 m) what `discounted` is to shrink; noise: variance in coefficients, (B, C)."""
        rounding = (ROUNDING_STD * self._steps(table, planes) / 255).square()
        noise = noise[..., None, None, None, None]
        share = 1 - (noise / (noise + rounding)).sqrt()
        return _with_coefficients(planes, lambda coefficients: share * coefficients)

    def _steps(self, table: Table, like: Tensor) -> Tensor:
        """Quantisation steps of each block, (B, 1, 1, 1, 8, 8)."""
        return self.derived(table, like, lambda: self._table(table))[:, None, None, None]

    def _table(self, table: Table) -> Tensor:
        """Quantisation steps (B, 8, 8) as libjpeg scales them."""
        quality = self.params["quality"].double().cpu()
        percent = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality).floor().view(-1, 1, 1)
        return ((torch.tensor(table, dtype=torch.float64) * percent + 50) / 100).floor().clamp(1, 255).float()


def _with_coefficients(planes: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change the DCT coefficients (B, C, n, m, 8, 8) of the 8 x 8 blocks of planes (B, C, 8 n, 8 m)."""
    b, c, height, width = planes.shape
    basis = constant(_dct, planes)
    blocks = planes.reshape(b, c, height // 8, 8, width // 8, 8).transpose(3, 4)
    blocks = basis.mT @ change(basis @ blocks @ basis.mT) @ basis
    return blocks.transpose(3, 4).reshape(b, c, height, width)


def rounding_std(table: Sequence[int]) -> float:
    """Standard deviation of what rounding luma to the steps of a quantisation table may change, on the [0, 1] scale."""
    return math.sqrt(sum(step**2 / 12 for step in table) / len(table)) / 255


def quality_of(table: Sequence[int]) -> int:
    """The quality of libjpeg, 1 to 100, whose luma table is the nearest to this, of 64 steps in any order."""
    steps = JPEG([float(quality) for quality in range(1, 101)])._table(_LUMA).flatten(1).sort(dim=1).values
    own = torch.tensor(table, dtype=torch.float32).sort().values
    return int((steps.log() - own.clamp(min=1).log()).abs().sum(dim=1).argmin()) + 1


def _round(x: Tensor) -> Tensor:
    """Round, with the derivative of E[round(x + e)], e ~ N(0, SOFTNESS²)."""
    edge = x.detach() - x.detach().floor() - 0.5  # from where it rounds up; beyond the next ones nothing counts
    slopes = [torch.exp(-(edge + next).square() / (2 * SOFTNESS**2)) for next in (-1, 0, 1)]
    passed = sum(slopes) / (SOFTNESS * math.sqrt(2 * math.pi)) * x
    return passed + (x.round() - passed).detach()


def _round_softly(x: Tensor) -> Tensor:
    """Give E[round(x + e)], e ~ N(0, SOFTNESS²), with the derivative 1."""
    held = x.detach()
    low = held.floor()
    mean = low - 1 + sum(torch.special.ndtr((held - low - edge) / SOFTNESS) for edge in (-0.5, 0.5, 1.5))
    return x + (mean - held)


def _to_ycc() -> Tensor:
    return torch.tensor(_YCC, dtype=torch.float64)


def _to_rgb() -> Tensor:
    return _to_ycc().inverse()


def _dct() -> Tensor:
    """Build the orthonormal DCT-II of 8 points, (frequency, position)."""
    position, frequency = torch.arange(8, dtype=torch.float64), torch.arange(8, dtype=torch.float64)[:, None]
    basis = torch.cos(math.pi * (2 * position + 1) * frequency / 16) / 2
    basis[0] /= math.sqrt(2)
    return basis


def _compress(compression: Tensor, noise_std: NoiseStd) -> JPEG:
    return JPEG(100 - compression, noise_std)


register_physics(
    JPEG,
    forms=[Form(JPEG)],
    tasks=[Task("jpeg", "compression", 20.0, 95.0, _compress, ordering=(10.0, 95.0))],  # larger is worse
)
