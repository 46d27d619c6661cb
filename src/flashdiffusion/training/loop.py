"""The one training loop: time-boxed, resumable after a kill at any moment, the same for one process and several."""

import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import broadcast_object_list, send_to_device
from diffusers.training_utils import EMAModel
from torch import Tensor

from flashdiffusion.data import ImageDataset, ensure_directory
from flashdiffusion.errors import CheckpointError, InputError, note
from flashdiffusion.progress import Display, Done
from flashdiffusion.training.batches import Batches
from flashdiffusion.training.checkpoint import read_checkpoint, write_checkpoint
from flashdiffusion.training.config import Recipe
from flashdiffusion.training.draws import Draws
from flashdiffusion.training.interrupt import interruptible
from flashdiffusion.training.log import CsvLog
from flashdiffusion.training.results import StageResults
from flashdiffusion.training.setup import make_accelerator, make_optimizers
from flashdiffusion.training.stage import Stage

MAX_SKIPPED = 20


def train_stage(
    stage: Stage,
    data: ImageDataset,
    recipe: Recipe,
    out: str | Path,
    max_minutes: float,
    max_steps: int | None = None,
    resume: bool = False,
) -> Path:
    """Train `stage` until the time box or `max_steps` is used up, and save it below `out`.

    Everything of the run is in `out`: `<stage>.ckpt` (the checkpoint `resume` continues from, written
    atomically), `<stage>.csv` (the log), `<stage>-samples.png`, and the trained folder.

    Raises:
        InputError: no time or steps to train for, `out` not writable, or `out` holds a run and `resume` is False.
        CheckpointError: the checkpoint to resume from is of another recipe.
    """
    out = ensure_directory(out)
    if not 0 < max_minutes < math.inf:
        raise InputError(f"max-minutes is {max_minutes:g}; expected a positive number")
    if max_steps is not None and max_steps < 1:
        raise InputError(f"max-steps is {max_steps}; expected at least 1")
    return _Training(stage, data, recipe, out, max_minutes, max_steps, resume).train()


class _Training:
    """State of one `train_stage` call."""

    def __init__(
        self,
        stage: Stage,
        data: ImageDataset,
        recipe: Recipe,
        out: Path,
        max_minutes: float,
        max_steps: int | None,
        resume: bool,
    ) -> None:
        self.stage, self.data, self.recipe, self.out = stage, data, recipe, out
        self.max_seconds, self.max_steps = max_minutes * 60, max_steps
        self.last_seconds = 0.0  # of the step before
        self.step, self.seconds, self.skipped = 0, 0.0, 0
        self.accelerator = make_accelerator(recipe, len(stage.trainable()) > 1)
        self.device = self.accelerator.device
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        self.total = stage.config.loop.batch_size
        if self.total % world:
            raise InputError(f"batch size {self.total} cannot be shared by {world} processes; use a divisor")
        self.rows = slice(rank * self.total // world, (rank + 1) * self.total // world)
        stage.to(self.device)
        if recipe.channels_last:
            cast(Any, stage).to(memory_format=torch.channels_last)
        self.optimizers = make_optimizers(stage)
        self.main = next(iter(stage.trainable().values()))
        decay = stage.config.loop.ema_decay
        averaging: dict[str, Any] = {"use_ema_warmup": True, "power": 0.75, "foreach": True}
        self.ema = EMAModel(self.main.parameters(), decay=decay, **averaging) if decay else None
        if self.ema:
            self.ema.to(self.device)
        self.results = StageResults(stage, data, recipe.seed, self.device, self.ema, out)
        self.made_by = json.loads(json.dumps({"size": recipe.size, "seed": recipe.seed, **asdict(stage.config)}))
        self.checkpoint, self.csv = out / f"{stage.name}.ckpt", CsvLog(out / f"{stage.name}.csv")
        if self.accelerator.is_main_process:
            for left_over in out.glob(f".{stage.name}.*.tmp*"):  # of a killed run
                left_over.unlink()
        if resume:
            self._load()
        elif self.checkpoint.exists():
            raise InputError(f"{self.checkpoint} exists; pass --resume to continue it or choose another --out")
        loss: Any = torch.compile(stage) if recipe.compile else stage
        self.loss = self.accelerator.prepare(loss)

    # -- the loop ---------------------------------------------------------------------------------------

    def train(self) -> Path:
        started = last_log = last_save = last_grid = time.monotonic()
        before = self.seconds
        first_step = self.step
        log: dict[str, Tensor] = {}
        with (
            self._display() as display,
            interruptible() as self.interrupted,
            Batches(self.stage.examples(self.data, self.out), self.recipe.seed, self.total, self.rows) as batches,
        ):
            for batch in batches.after(self.step):
                log_due = self.step == first_step or time.monotonic() - last_log >= self.recipe.log_seconds
                progress, log_due = self._agree(log_due)
                if progress >= 1:
                    break
                began = time.monotonic()
                log = self._train_step(send_to_device(batch, self.device, non_blocking=True), progress)
                self.step += 1
                now = time.monotonic()
                self.last_seconds = now - began
                self.seconds = before + now - started
                if log_due:
                    rate = (self.step - first_step) * self.total / (now - started)
                    loss = self._log(log, rate)
                    figures = f"{rate:.1f} images/s, loss {loss:.4f}"
                    display.show(Done(int(100 * progress), 100, f"step {self.step}, {figures}", progress, figures))
                    last_log = now
                if now - last_save > self.recipe.checkpoint_minutes * 60:
                    self._save()
                    last_save = now
                if now - last_grid > self.recipe.grid_minutes * 60:
                    if self.accelerator.is_main_process:
                        self.results.grid()
                    last_grid = now
        if log:
            self._log(log, (self.step - first_step) * self.total / max(time.monotonic() - started, 1e-9))
        self._save()
        if self.interrupted.is_set():
            note(f"interrupted: the checkpoint of step {self.step} is in {self.out}; --resume continues")
            raise KeyboardInterrupt
        if self.accelerator.is_main_process:
            self.results.grid()
            self.results.finish()
        self.accelerator.wait_for_everyone()
        return self.out

    def _display(self) -> Display:
        """Shows what part of the time box is over, by the first process."""
        return Display(self.stage.name, "%", self.accelerator.is_main_process, share=min(1.0, self._share))

    @property
    def _share(self) -> float:
        """Part of the run that is over, from 0, by this process's clock."""
        share = self.seconds / self.max_seconds
        return share if self.max_steps is None else max(share, self.step / self.max_steps)

    def _agree(self, log_due: bool) -> tuple[float, bool]:
        """Part of the run that is over, in [0, 1], and whether this step is logged, by the first process's clock.

        Clocks differ, and a process that stops or logs alone would leave the others waiting for it.
        """
        # A step that would end after the time box is not begun, and none after an interrupt.
        over = self.interrupted.is_set() or self.seconds + self.last_seconds > self.max_seconds
        progress = 1.0 if over else self._share
        if self.accelerator.num_processes > 1:
            progress, log_due = broadcast_object_list([progress, log_due])
        return progress, log_due

    def _train_step(self, batch: Any, progress: float) -> dict[str, Tensor]:
        loop = self.stage.config.loop
        warm = min(1.0, progress / loop.warmup) if loop.warmup else 1.0
        lr = loop.lr * max(warm, 1e-2) * (1 + math.cos(math.pi * progress)) / 2
        draws = Draws(self.recipe.seed, self.step, self.total, self.rows, self.device)
        flip = draws.uniform() < 0.5
        x = self.stage.mirrored(batch, flip)
        log: dict[str, Tensor] = {}
        for phase in self.stage.phases(progress):
            optimizer = self.optimizers[phase]
            for group in optimizer.param_groups:
                group["lr"] = lr
            loss, parts = self.loss(phase, x, draws)
            self.accelerator.backward(loss)
            parameters = list(self.stage.trainable()[phase].parameters())
            norm = torch.nn.utils.clip_grad_norm_(parameters, loop.clip_norm)
            self._step_if_finite(optimizer, float(norm))
            self.stage.zero_grad(set_to_none=True)
            log |= ({} if log else {"loss": loss.detach()}) | parts
        if self.ema:
            self.ema.step(self.main.parameters())
        return log

    def _step_if_finite(self, optimizer: torch.optim.Optimizer, norm: float) -> None:
        """Leave out a step whose gradient is not finite; many in a row mean that the run is lost."""
        if math.isfinite(norm):
            optimizer.step()
            self.skipped = 0
            return
        self.skipped += 1
        if self.skipped >= MAX_SKIPPED:
            raise InputError(
                f"{self.stage.name}: {MAX_SKIPPED} steps in a row gave no finite gradient at step {self.step}; the "
                "checkpoint before them is kept: lower the learning rate, or train with precision 'no'"
            )

    # -- what is written --------------------------------------------------------------------------------

    def _log(self, log: dict[str, Tensor], rate: float) -> float:
        """Write the means over the global batch; all processes call this together. The loss."""
        own = torch.stack([value.float() for value in log.values()])
        means = dict(zip(log, self.accelerator.reduce(own, "mean").tolist(), strict=True))
        if self.accelerator.is_main_process:
            row = {"step": self.step, "seconds": round(self.seconds, 1), "images_per_second": round(rate, 2)}
            self.csv.append(row | {key: round(value, 6) for key, value in means.items()})
        return means["loss"]

    def _save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        state = {
            "recipe": self.recipe.name,
            "stage": self.stage.name,
            "made_by": self.made_by,
            "step": self.step,
            "seconds": self.seconds,
            "modules": {phase: module.state_dict() for phase, module in self.stage.trainable().items()},
            "optimizers": {phase: optimizer.state_dict() for phase, optimizer in self.optimizers.items()},
            "ema": self.ema.state_dict() if self.ema else None,
        }
        write_checkpoint(self.checkpoint, state)

    def _load(self) -> None:
        if not self.checkpoint.exists():
            return  # nothing was saved yet: resuming starts from the beginning
        state = read_checkpoint(self.checkpoint, self.device, self.recipe.name, self.stage.name, self.made_by)
        try:
            for phase, module in self.stage.trainable().items():
                module.load_state_dict(state["modules"][phase])
                self.optimizers[phase].load_state_dict(state["optimizers"][phase])
            if self.ema:
                self.ema.load_state_dict(state["ema"])
                self.ema.to(self.device)
            self.step, self.seconds = state["step"], state["seconds"]
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise CheckpointError(f"{self.checkpoint} cannot be resumed from: {error}") from error
