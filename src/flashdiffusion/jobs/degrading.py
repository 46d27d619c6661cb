"""Images degraded: brought to their size, measured, and kept as a measurement file and a picture to look at."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Generator

from flashdiffusion.data import MeasurementFile, Picture, encode_picture
from flashdiffusion.jobs.parse import parse_physics
from flashdiffusion.metrics import psnr
from flashdiffusion.physics import BatchedPhysics, Window, get_task

# Of an image: its file, its size now and before it was fitted.
MakePhysics = Callable[[Path, tuple[int, int], tuple[int, int], Generator], BatchedPhysics]


@dataclass(frozen=True)
class Shown:
    """What a measurement looks like: a PNG file, and its PSNR in dB against the image."""

    png: bytes
    psnr: float


@dataclass(frozen=True)
class Made:
    """An image as it is degraded, with its operator, and the generator of its noise."""

    picture: Picture
    operator: BatchedPhysics
    generator: Generator

    def measured(self, name: str, source: str, fitted: bool) -> tuple[MeasurementFile, Shown]:
        """Measure it, once: draws from the generator.

        Args:
            name, source, fitted: see `MeasurementFile`.
        """
        operator, x, kind = self.operator, self.picture.values[None], self.picture.kind
        y = operator(x, self.generator)
        std = float(operator.noise_std[0])
        file = MeasurementFile(name, y[0], operator.name, operator.params, std, source, fitted, kind)
        looked_at = operator.image(y).clamp(0, 1)
        # The mean of a grey image's channels would show less noise than was added to it.
        shown = looked_at[0, :1] if kind.grey else looked_at[0]
        return file, Shown(encode_picture(shown, kind), float(psnr(looked_at, x)))


def physics_maker(text: str | None, task: str, noise_std: float) -> MakePhysics:
    """What makes an image's operator: as `text` says on the command line, or drawn from the task.

    Raises:
        InputError: unknown task.
    """
    chosen = get_task(task)
    if text:
        return lambda path, size, original, rng: parse_physics(text, size, rng, noise_std, path, original)
    return lambda path, size, original, rng: chosen.draw(1, size, rng, noise_std)


def degraded(
    path: Path,
    picture: Picture,
    size: int,
    make_physics: MakePhysics,
    draw: Callable[[], Generator],
    like: BatchedPhysics | None = None,
) -> Made:
    """Bring an image to the size that it is degraded at, and make its operator.

    Super-resolution divides no image whose sides are no multiples of its factor: that is cut, or where a size was asked
    for, brought to a smaller one, which the true image can be brought to as well.

    Args:
        size: side of the square that it is cropped and resized to; 0 keeps its own size.
        like: an operator of another image, whose pixels of y are as large; None where that is drawn for each.
    """
    asked, made = (size, size) if size else picture.size, None
    if like is None:
        like = made = make_physics(path, asked, picture.size, generator := draw())
    part = Window.divided(asked, like.pixel_size)
    fitted = picture.fitted(*part.size) if size else picture.cropped(*part.size)
    cut = part.size != asked and not size and like.halo is not None  # a mask is of the whole image
    own = asked if cut else part.size
    if made is None or own != asked:
        made = make_physics(path, own, picture.size if size else own, generator := draw())
    if cut:
        made.check_size(asked)
        made = made.window(part)
    return Made(fitted, made, generator)
