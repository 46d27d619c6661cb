"""What one click may cost: sizes of uploads, samples, people in line."""

from dataclasses import dataclass
from pathlib import Path

from flashdiffusion.errors import InputError, sized
from flashdiffusion.hosting import MEGA

PREVIEW = 1024  # pixels of the longer side of what is shown of a picture


@dataclass(frozen=True)
class Limits:
    """Bounds of the page.

    megabytes: of an upload. megapixels: of a picture, and of its result where that is larger. samples: of one picture.
    waiting: clicks in line; more are turned away.

    Raises:
        InputError: a bound below what the page needs.
    """

    megabytes: float = 20.0
    megapixels: float = 2.0
    samples: int = 6
    waiting: int = 8

    def __post_init__(self) -> None:
        for name, least in (("megabytes", 0.01), ("megapixels", 0.01), ("samples", 1), ("waiting", 1)):
            if not getattr(self, name) >= least:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least {least}")

    @property
    def pixels(self) -> int:
        """Of a picture."""
        return int(self.megapixels * MEGA)

    def check_file(self, path: Path, name: str) -> None:
        """Raise InputError, naming the upload `name`, unless it is a picture within the bounds.

        Its pixels are not read: a file of a few bytes may claim billions.
        """
        from flashdiffusion.data.decoding import FORMATS, size_of

        if (size := path.stat().st_size) > self.megabytes * MEGA:
            raise InputError(
                f"{name} has {size / MEGA:.1f} MB; expected at most {self.megabytes:g} MB: save it as a JPEG"
            )
        try:
            height, width = size_of(path)
        except InputError as error:
            reason = str(error).removeprefix(f"{path}: ").replace(str(path), name).replace(repr(str(path)), name)
            raise InputError(f"{name} cannot be read as a picture: {reason}; expected {', '.join(FORMATS)}") from error
        self.check_size(height, width, name)

    def check_size(self, height: int, width: int, name: str) -> None:
        """Raise InputError for a picture of more pixels than the bound."""
        if height * width > self.pixels:
            raise InputError(
                f"{name} would have {sized(height, width)}, {height * width / MEGA:.1f} megapixels; expected at most "
                f"{self.megapixels:g} megapixels here: make it smaller, or use `flashdiffusion restore`"
            )
