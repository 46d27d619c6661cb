"""Restored images, collected."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from flashdiffusion.data import Kind, encode_picture, ensure_directory, write_bytes
from flashdiffusion.data.files import unique
from flashdiffusion.data.images import to_pil
from flashdiffusion.engine.batch import FIGURES, Restored
from flashdiffusion.engine.tiling import TileMap
from flashdiffusion.errors import InputError, counted
from flashdiffusion.severity import encoded_map

STEPS = "steps"  # folder of pictures of the steps of tiles, in that of the maps


@dataclass(frozen=True, repr=False)
class Restoration:
    """Restored images; every field is on the CPU and has one row per image.

    images: float32 (B, 3, H, W) in [0, 1]; NaN where there is none. severity: σ̂² in scaled latent units, float32 (B,),
    None if no severity encoder was used. severity_maps: the variance at each place of the latent, float32 (B, h, w),
    whose mean is the severity (of images that were padded inside, with the padding); None if no severity encoder was
    used, NaN where an image has none. start_step: time of
    the start on the full schedule, 0 (clean) to N (noise), int64 (B,). nfe: denoiser evaluations
    run, int64 (B,); float32 where pictures were restored in tiles, whose nfe is the mean over these by area.
    gflop: arithmetic spent, float32 (B,). seconds: the image's share of the wall-clock time of the calls it took part
    in, float32 (B,). physics_corrected: whether the physics did not explain the measurement, and was corrected by
    blurs, bool (B,). failed: why an image has no image, by its row. ids: their names. samples: (S, B, 3, H, W) if
    several samples were asked for, NaN where one failed; everything else is of the first. kinds: of picture that each
    is saved as; empty for RGB of 8 bits. tiles: what is known of each image's tiles, None for one that was restored
    whole; empty if all were.
    """

    images: Tensor
    severity: Tensor | None
    start_step: Tensor
    nfe: Tensor
    gflop: Tensor
    seconds: Tensor
    physics_corrected: Tensor
    failed: dict[int, str] = field(default_factory=dict)
    ids: tuple[str, ...] = ()
    samples: Tensor | None = None
    severity_maps: Tensor | None = None
    kinds: tuple[Kind, ...] = ()
    tiles: tuple[TileMap | None, ...] = ()

    def __repr__(self) -> str:
        size = "x".join(map(str, self.images.shape[:0:-1][:2]))
        samples = "" if self.samples is None else f", {len(self.samples)} samples of each"
        severity = "" if self.severity is None else f", mean severity {float(self.severity.nanmean()):.3g}"
        steps = f"start step {self._range(self.start_step)}, nfe {self._range(self.nfe)}"
        count = counted(len(self), "image")
        return f"Restoration({count} of {size}{samples}{severity}, {steps}, {len(self.failed)} failed)"

    def _range(self, values: Tensor) -> str:
        """The least and the most of the images that there are."""
        known = [value for row, value in enumerate(values.tolist()) if row not in self.failed]
        least, most = (f"{value:.4g}" for value in (min(known), max(known)))
        return least if least == most else f"{least} to {most}"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: Any) -> Tensor:
        """Image i (C, H, W), or a slice of them."""
        return self.images[i]

    @property
    def mean(self) -> Tensor:
        """Mean over the samples that there are, (B, C, H, W)."""
        return self.images if self.samples is None else self.samples.nanmean(dim=0)

    @property
    def std(self) -> Tensor:
        """Standard deviation over the samples that there are, (B, C, H, W); 0 of a single one."""
        if self.samples is None:
            return torch.zeros_like(self.images)
        return (self.samples - self.mean).square().nanmean(dim=0).sqrt()

    def pil(self) -> list[Image.Image | None]:
        """The images as Pillow's, grey ones as grey, with the colour profile of each input; None where one failed."""
        mode = "L" if self.images.shape[1] == 1 else "RGB"
        found: list[Image.Image | None] = []
        for i, image in enumerate(self.images.expand(-1, 3, -1, -1)):
            made = None if i in self.failed else to_pil(image).convert(mode)
            if made is not None and self.kinds and self.kinds[i].profile is not None:
                made.info["icc_profile"] = self.kinds[i].profile
            found.append(made)
        return found

    def save(self, folder: str | Path, maps: str | Path | None = None) -> list[Path]:
        """Write each image as folder/ID.png, or by its number where there are no ids; returns the files.

        Of several samples the first has that name, the others are folder/ID-sample-2.png and so on.

        Args:
            maps: a folder for pictures of the severity maps (see `severity.map_picture`), by the same names; in its
                folder `steps`, of the steps of tiles.

        Raises:
            InputError: a folder that cannot be written, or maps where there are none, or in the images' place.
        """
        if maps is not None and self.severity_maps is None:
            raise InputError(f"maps is {maps}, but no severity encoder was used; expected a start such as flash")
        if maps is not None and Path(maps).resolve() == Path(folder).resolve():
            raise InputError(f"maps is {maps}, the folder of the images; choose another")
        folder, written = ensure_directory(folder), []
        names = unique(name.replace("/", "_").replace("\\", "_") for name in self.ids or map(str, range(len(self))))
        samples = self.images[None] if self.samples is None else self.samples
        for i, name in enumerate(names):
            for n, image in enumerate(samples[:, i], 1):
                if not image.isfinite().all():  # it failed
                    continue
                path = folder / (f"{name}.png" if n == 1 else f"{name}-sample-{n}.png")
                write_bytes(path, encode_picture(image, self.kinds[i] if self.kinds else Kind()))
                written.append(path)
            if maps is not None and self.severity_maps is not None and i not in self.failed:
                height, width = self.images.shape[2:]
                png = encoded_map(self.severity_maps[i], (height, width))
                write_bytes(ensure_directory(maps) / f"{name}.png", png)
                if self.tiles and (tiles := self.tiles[i]) is not None:
                    write_bytes(ensure_directory(Path(maps) / STEPS) / f"{name}.png", tiles.png)
        return written

    def grey(self) -> "Restoration":
        """The same with images of one channel, the mean of the three."""
        samples = None if self.samples is None else self.samples.mean(dim=2, keepdim=True)
        return replace(self, images=self.images.mean(dim=1, keepdim=True), samples=samples)

    def sampled(self, count: int) -> "Restoration":
        """Of rows that are `count` samples of each image, one sample after the other: the first, with all beside it."""
        size = len(self) // count
        first: dict[str, Any] = {
            name: value[:size] for name, value in vars(self).items() if isinstance(value, (Tensor, tuple))
        }
        failed = {i: reason for i, reason in self.failed.items() if i < size}
        return replace(self, **first, failed=failed, samples=self.images.view(count, size, *self.images.shape[1:]))

    @classmethod
    def collect(cls, parts: Iterable[Restored]) -> "Restoration":
        """All images of a stream, of one size, in the order in which they went in.

        Raises:
            InputError: none of them could be restored; the reason of the first.
        """
        rows = sorted(parts, key=lambda one: one.index)
        failed = {one.index: one.failed for one in rows if one.failed is not None}
        if len(failed) == len(rows):
            raise InputError(failed[0])
        images = _stacked([one.image for one in rows])
        assert images is not None  # one of them was restored
        return cls(
            images,
            _stacked([None if one.severity is None else torch.tensor(one.severity) for one in rows]),
            torch.tensor([one.start_step for one in rows]),
            torch.tensor([one.nfe for one in rows]),
            torch.tensor([one.gflop for one in rows]),
            torch.tensor([one.seconds for one in rows]),
            torch.tensor([one.physics_corrected for one in rows]),
            failed,
            tuple(one.id for one in rows),
            severity_maps=_stacked([one.severity_map for one in rows]),
            tiles=tuple(one.tiles for one in rows) if any(one.tiles is not None for one in rows) else (),
        )

    def row(self, i: int) -> dict[str, Any]:
        """Everything but the image of row i, as plain values."""
        columns = {name: getattr(self, name) for name in FIGURES}
        return {name: None if values is None else values[i].item() for name, values in columns.items()}


def _stacked(rows: list[Tensor | None]) -> Tensor | None:
    """One tensor of all, NaN where there is none; None if there is none at all."""
    some = next((one for one in rows if one is not None), None)
    if some is None:
        return None
    return torch.stack([torch.full_like(some, float("nan")) if one is None else one for one in rows])
