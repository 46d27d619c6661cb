"""Latents of a data set, encoded when they are first asked for and kept on disk in half precision."""

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flashdiffusion.data import ImageDataset
from flashdiffusion.errors import InputError

PAGE = 4096  # bytes; rows of several processes share none


class Latents:
    """Latents of each image and of its mirror image, in place of the images of a data set.

    They are kept in a file of `folder` that belongs to these images and this encoder, and serve every run there. It
    begins with a byte for each image, 1 once its latents are there.

    Args:
        encode: images (B, 3, H, W) in [0, 1], on any device, to latents (B, c, h, w).
        encoder: a digest of the encoder, see `digest`.

    Raises:
        InputError: no room for the file.
    """

    def __init__(
        self, data: ImageDataset, encode: Callable[[Tensor], Tensor], shape: Sequence[int], encoder: str, folder: Path
    ) -> None:
        self.data, self.encode = data, encode
        name = hashlib.blake2b(f"{encoder} {data.identity()}".encode(), digest_size=8).hexdigest()
        self.file, whole = folder / f"latents-{name}.f16", (len(data), 2, *shape)
        begin = -(-len(data) // PAGE) * PAGE
        size = begin + 2 * math.prod(whole)
        try:
            with self.file.open("ab") as stream:
                if hasattr(os, "posix_fallocate"):  # a full disk would kill the process that writes to a map
                    os.posix_fallocate(stream.fileno(), 0, size)
                elif stream.tell() < size:  # macOS
                    stream.truncate(size)
        except OSError as error:
            raise InputError(f"cannot keep {size / 2**30:.1f} GiB of latents in {folder}: {error.strerror}") from error
        self._done = np.memmap(self.file, dtype=np.uint8, mode="r+", shape=len(data))
        self._rows = np.memmap(self.file, dtype=np.float16, mode="r+", offset=begin, shape=whole)

    def __len__(self) -> int:
        return len(self.data)

    def rows(self, indices: Sequence[int]) -> Tensor:
        """Give latents (B, 2, c, h, w), float16: of each image, and of its mirror image."""
        indices = [index % len(self) for index in indices]
        missing = [n for n, index in enumerate(indices) if not self._done[index]]
        rows = self._rows[list(indices)]
        if missing:
            images = self.data.batch([indices[n] for n in missing], replace_damaged=True)
            with torch.no_grad():
                pairs = torch.stack([self.encode(images), self.encode(images.flip(-1))], dim=1)
            rows[missing] = pairs.half().cpu().numpy()
            for n in missing:
                self._rows[indices[n]] = rows[n]
                self._done[indices[n]] = 1
        return torch.from_numpy(rows)


class ImagesAndLatents:
    """Images, and the latents of each and of its mirror image, see `Latents`."""

    def __init__(self, latents: Latents) -> None:
        self.latents = latents

    def __len__(self) -> int:
        return len(self.latents)

    def rows(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Give uint8 images (B, 3, H, W), and latents (B, 2, c, h, w), float16."""
        return self.latents.data.rows(indices), self.latents.rows(indices)


def digest(module: torch.nn.Module) -> str:
    """Hash a module's parameters and buffers, those that are not saved too: the scale of latents is one."""
    hashed = hashlib.blake2b(digest_size=16)
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        hashed.update(name.encode())
        hashed.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()
