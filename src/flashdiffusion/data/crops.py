"""Random crops of photographs, at several scales, as one indexed set."""

from collections.abc import Iterable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from flashdiffusion.data.dataset import ImageDataset
from flashdiffusion.data.decoding import decode_image
from flashdiffusion.data.images import fit, to_tensor
from flashdiffusion.errors import InputError
from flashdiffusion.seeds import image_generator


class Crops(ImageDataset):
    """Squares cut from anywhere in images and shrunk; item i is crop i // n of image i % n, of n images.

    A crop depends on its number and the image's id alone.

    Args:
        paths, size, limit, cache_gib, split: see `ImageDataset`.
        smallest: a square is shrunk by a factor drawn from this to 1, as far as the image is large enough. An image
            that is smaller than `size` is enlarged to it.

    Raises:
        InputError: `smallest` outside (0, 1], or as `ImageDataset`.
    """

    def __init__(
        self,
        paths: Iterable[str | Path],
        size: int,
        limit: int | None = None,
        cache_gib: float = 4.0,
        split: str | None = None,
        smallest: float = 0.5,
    ) -> None:
        if not 0 < smallest <= 1:
            raise InputError(f"smallest is {smallest}; expected a number above 0 and at most 1")
        super().__init__(paths, size, limit, cache_gib, split)
        self.smallest = smallest
        self._decoded: dict[int, Image.Image] = {}

    def __getitem__(self, index: int) -> Tensor:
        number, place = divmod(index, len(self))
        image = self._whole(place)
        factor, *where = torch.rand(3, generator=image_generator(number, self.ids[place], "crop")).tolist()
        side = min(*image.size, round(self.side / (self.smallest + (1 - self.smallest) * factor)))
        left, top = (int(part * (extent - side + 1)) for part, extent in zip(where, image.size, strict=True))
        square = fit(image.crop((left, top, left + side, top + side)), self.side)
        return (to_tensor(square) * 255).round().to(torch.uint8)

    def _drawn(self, place: int, time: int) -> Tensor:
        """Give another crop each time."""
        return self[time * len(self) + place]

    def _whole(self, place: int) -> Image.Image:
        """A decoded image, kept if there is room."""
        if (hit := self._decoded.get(place)) is not None:
            return hit
        entry = self._entries[place]
        image = decode_image(entry.read(), entry.name)
        if self._takes(4 * image.width * image.height):  # Pillow's bytes of a pixel, in colour or in floats
            self._decoded[place] = image
        return image
