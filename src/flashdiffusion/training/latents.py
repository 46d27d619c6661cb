"""Latents of a data set, encoded when they are first asked for and kept on disk in half precision."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flashdiffusion.data import ImageDataset


class Latents:
    """Latents of each image and of its mirror image, in place of the images of a data set.

    They are kept in a file of `folder` that belongs to these images and this encoder, and serve every run there. A row
    that was never written is 0 throughout, as no image's latents are.

    Args:
        encode: images (B, 3, H, W) in [0, 1], on any device, to latents (B, c, h, w).
        encoder: a digest of the encoder's weights.
    """

    def __init__(
        self, data: ImageDataset, encode: Callable[[Tensor], Tensor], shape: Sequence[int], encoder: str, folder: Path
    ) -> None:
        self.data, self.encode = data, encode
        about = "\n".join([encoder, str(data.size), *data.ids])
        self.file = folder / f"latents-{hashlib.blake2b(about.encode(), digest_size=8).hexdigest()}.f16"
        whole = (len(data), 2, *shape)
        with self.file.open("ab") as stream:  # it takes no room on disk until it is written to
            stream.truncate(2 * int(np.prod(whole)))
        self._rows = np.memmap(self.file, dtype=np.float16, mode="r+", shape=whole)

    def __len__(self) -> int:
        return len(self.data)

    def rows(self, indices: Sequence[int]) -> Tensor:
        """Give latents (B, 2, c, h, w), float16: of each image, and of its mirror image."""
        rows = self._rows[list(indices)]
        missing = [n for n in range(len(rows)) if not rows[n].any()]
        if missing:
            images = self.data.batch([indices[n] for n in missing], replace_damaged=True)
            with torch.no_grad():
                pairs = torch.stack([self.encode(images), self.encode(images.flip(-1))], dim=1)
            rows[missing] = pairs.half().cpu().numpy()
            for n in missing:
                self._rows[indices[n]] = rows[n]
        return torch.from_numpy(rows)


def digest(module: torch.nn.Module) -> str:
    """Hash a module's weights."""
    hashed = hashlib.blake2b(digest_size=16)
    for name, value in module.state_dict().items():
        hashed.update(name.encode())
        hashed.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()
