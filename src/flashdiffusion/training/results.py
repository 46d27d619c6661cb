"""What a stage of training writes: a grid of images to look at, and the trained folders."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor

from flashdiffusion.data import ImageDataset, save_grid
from flashdiffusion.training.draws import Draws
from flashdiffusion.training.stage import Stage

GRID_IMAGES = 8
FINISH_IMAGES = 256


class StageResults:
    """Writes what a stage has learned to `out`, by its EMA weights if there are any."""

    def __init__(
        self, stage: Stage, data: ImageDataset, seed: int, device: torch.device, ema: EMAModel | None, out: Path
    ) -> None:
        self.stage, self.data, self.seed, self.device, self.ema, self.out = stage, data, seed, device, ema, out

    def _sample_images(self, count: int) -> Tensor:
        """Images from all over the data, not from its first folder alone."""
        indices = torch.linspace(0, len(self.data) - 1, min(count, len(self.data))).long().tolist()
        return self.data.batch(indices, replace_damaged=True).to(self.device)

    @torch.no_grad()
    def grid(self) -> None:
        """Write a grid of images, as the averaged weights make them."""
        x = self._sample_images(GRID_IMAGES)
        draws = Draws(self.seed, 0, len(x), slice(None), self.device)
        self.stage.eval()
        with self._averaged():
            save_grid(self.stage.grid(x, draws), self.out / f"{self.stage.name}-samples.png")
        self.stage.train()

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within, the trained module holds its EMA weights."""
        main = next(iter(self.stage.trainable().values()))
        if self.ema:
            self.ema.store(main.parameters())
            self.ema.copy_to(main.parameters())
        try:
            yield
        finally:
            if self.ema:
                self.ema.restore(main.parameters())

    @torch.no_grad()
    def finish(self) -> None:
        """Measure what the trained networks need to be used, and write their folders."""
        self.stage.eval()
        with self._averaged():
            self.stage.finish(self._sample_images(FINISH_IMAGES))
            self._save_folders()

    def _save_folders(self) -> None:
        """Write the trained folders beside `out`'s and rename them, so that a kill leaves no half-written one."""
        partial = self.out / f".{self.stage.name}.tmp"
        shutil.rmtree(partial, ignore_errors=True)
        self.stage.save(partial)
        # Last the one that marks the stage as done: denoiser after scheduler.
        for folder in sorted(partial.iterdir(), reverse=True):
            shutil.rmtree(self.out / folder.name, ignore_errors=True)
            folder.rename(self.out / folder.name)
        partial.rmdir()
