"""FlashPipeline: what a user holds."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flashdiffusion.engine.batch import Batch, Failed, Restored
from flashdiffusion.engine.options import StreamOptions
from flashdiffusion.engine.progress import Progress
from flashdiffusion.engine.stream import Stream
from flashdiffusion.errors import InputError, SizeError, sized
from flashdiffusion.methods import Settings, check_used, parse_method
from flashdiffusion.model import DEFAULT_MODEL, PHOTOGRAPHS, Model
from flashdiffusion.physics import flattened
from flashdiffusion.pipeline.describe import described
from flashdiffusion.pipeline.inputs import Given, doubts, read_measurements, size_of_images
from flashdiffusion.pipeline.restoration import Restoration
from flashdiffusion.progress import Display
from flashdiffusion.solvers import Solver, StartRule

Callback = Callable[[int, Tensor, list[str]], None]


class FlashPipeline(Model):
    """Sample-adaptive restoration: severity encoder, start rule, latent solver, decoder; see `Model`."""

    _said_noise = False  # that images start from noise
    _said_size = False  # that their size is far from the model's

    def __repr__(self) -> str:
        return described(self)

    def __call__(
        self,
        y: Given,
        physics: Any = None,
        *,
        ids: Sequence[str] | None = None,
        num_samples: int = 1,
        **options: Any,
    ) -> Restoration:
        """Restore measurements. Images that cannot be restored are warned of and listed in the result's `failed`.

        Args:
            y: measurements on the [0, 1] scale, images (B, 3, H, W) for most physics; noise may leave the range. Or
                one image, grey or RGB: a tensor (C, H, W), a numpy array (channels last or first; uint8 is 0 to 255),
                a Pillow image, a path; or a list of these. Grey images come back grey; alpha, colour profile and 16
                bits of pictures come back where the result is saved.
            physics: the degradation that made y; ours, DeepInverse's, any object with `A(x)`, or a function.
            ids: a name per image, by default its position; an image's result depends on its id, not on
                what else is in the batch.
            num_samples: posterior samples of each image, see `Restoration.samples`; the first is what one would be.
            options: those of `stream`: method, solver, start, seed, max_in_flight, tile, progress, callback, and any
                setting by name, such as `guidance=4, steps=100`.

        Raises:
            InputError: no physics, y of the wrong shape or with NaN, a size the prior cannot take, unknown names, or no
                image that could be restored.
        """
        if physics is None:
            raise InputError(
                "no physics; expected what made y of the image, such as GaussianBlur(2.0), or Denoising(0.05) for noise"
            )
        y, physics = flattened(y, physics)
        y, kinds = read_measurements(y, physics)
        names = [str(i) for i in range(len(y))] if ids is None else list(ids)
        batch = Batch(names, y, physics, samples=num_samples)
        for text in doubts(batch.y, batch.physics):
            warnings.warn(text, stacklevel=2)
        self._warn_of_size(batch, options.get("tile"))
        restoration = Restoration.collect(self.stream([batch], total=len(y), **options))
        if restoration.failed:
            named = "; ".join(f"{restoration.ids[row]}: {reason}" for row, reason in restoration.failed.items())
            warnings.warn(f"{len(restoration.failed)} of {len(restoration)} images failed: {named}", stacklevel=2)
        if corrected := [restoration.ids[row] for row in restoration.physics_corrected.nonzero()[:, 0].tolist()]:
            of = f"{len(corrected)} of {len(restoration)} images do not fit the physics that was told"
            which = f" ({'' if ids is not None else 'by their place from 0: '}{', '.join(corrected)})"
            if len(restoration) == 1:
                of, which = "the image does not fit the physics that was told", ""
            warnings.warn(
                f"{of}{which}; what misfits was restored with the physics corrected: check its strength, or give "
                "correct_physics=False",
                stacklevel=2,
            )
        restoration = restoration if num_samples == 1 else restoration.sampled(num_samples)
        restoration = replace(restoration, kinds=tuple(kinds))
        return restoration.grey() if all(kind.grey for kind in kinds) else restoration

    def stream(
        self,
        batches: Iterable[Batch | Failed],
        *,
        method: str | None = None,
        solver: str | Solver | None = None,
        start: str | StartRule | None = None,
        seed: int = 0,
        settings: Settings | None = None,
        max_in_flight: int | None = None,
        progress: bool = False,
        total: int | None = None,
        callback: Callback | None = None,
        tile: int | None = None,
        live: bool = False,
        **hyperparameters: Any,
    ) -> Iterator[Restored]:
        """Restore any number of measurements; each image is given as soon as it is done.

        Batches are asked for as images finish, one ahead of need, so that memory does not grow with their number.
        They may hold different sizes and physics. Images that cannot be restored are given with the reason; the
        others go on. What an image becomes depends on its id and the seed, not on batches, max_in_flight or order.

        Args:
            batches: measurements, a few dozen at a time, and inputs that failed before; an iterator that reads them
                is run in a thread of its own. What it raises is raised here after the images that came before.
            method: start and solver in one, such as "flash(psld)", in place of both.
            solver: a registered name ("proximal", "latent-dps", "gml-dps", "psld", "resample", "dps", "prior") or a
                solver object. By default "proximal" after a Flash start; "latent-dps" after any other, or where a
                setting is given that proximal does not use, such as `guidance`; "dps" with a model of pixels.
            start: a registered name ("flash": as few steps as the image needs, "noise": all steps, "inversion",
                "ccdf", "estimate", "regression"), or a start rule. By default "flash", or "noise", with a warning, if
                the model has no severity encoder.
            seed: with an image's id it determines the image's random numbers.
            settings: hyperparameters of batches without settings of their own, in place of the model's own, which
                are taken for the rest: by the batch's kind of physics, per image where it is `Mixed`.
            max_in_flight: images in flight at a time, >= 1; by default as many as fit into free memory and bring speed.
            progress: show how far it is on standard error: a bar on a terminal, else a line every 30 seconds.
            total: images that the batches hold, if known, for that.
            tile: pictures with a side of more pixels are cut into tiles of this side, each with its own severity,
                start and steps; 0 for none. By default only a model without attention cuts, and only large pictures.
            callback: for a live view: `callback(step, estimate, ids)` is called after each step with its number, what
                the images that it moved would be if they ended now (n, 3, H, W), decoded, in [0, 1], and their ids.
            live: batches come when they come, as from a queue: new images join those in flight, which are not kept
                waiting for them. A batch may have a method, a seed and cancellations of its own, see `Batch`.
            hyperparameters: single settings by name, such as `quality="fast"`, in place of those in `settings`.
                `steps` is the length of the whole grid from noise to clean, of which a Flash start makes a part.

        Raises:
            InputError: at once, not at the first image: unknown names, settings out of range, max_in_flight < 1; a
                setting given by name, or without naming a solver, that the method does not use.
        """
        if method is not None:
            if solver is not None or start is not None:
                raise InputError(f"method {method!r} beside a solver or a start; expected one or the other")
            start, solver = parse_method(method)
        start = self._chosen(start)
        if own := Settings(**hyperparameters):
            settings = own if settings is None else settings | own
            batches = (_with_settings(one, own) for one in batches)
        given = Settings() if settings is None else settings
        chosen = solver or self.solver_for(start, given)
        if isinstance(chosen, str) and isinstance(start, str):
            check_used(own, start, chosen)
        self.method(chosen, start, given)
        options = StreamOptions(
            *(solver, start, seed, settings, max_in_flight), callback=callback, tile=tile, live=live
        )
        return self._stream(batches, options, progress, total)

    def begin(
        self,
        batches: Iterable[Batch | Failed],
        *,
        seed: int = 0,
        progress: bool = False,
        total: int | None = None,
        tile: int | None = None,
    ) -> Iterator[Restored]:
        """Measure how damaged images are: give each with the severity, its map and the start that `stream` would take.

        None has an image, and no step is made. Memory does not grow with pictures in tiles.

        Args:
            batches, seed, progress, total, tile: see `stream`. Where the physics is `Unknown`, the encoder goes by the
                image alone.

        Raises:
            InputError: at once: no severity encoder, a tile below 0.
        """
        self._need_encoder()
        return self._begin(batches, StreamOptions(None, "flash", seed, tile=tile), progress, total)

    @torch.inference_mode(False)
    def _begin(
        self, batches: Iterable[Batch | Failed], options: StreamOptions, progress: bool, total: int | None
    ) -> Iterator[Restored]:
        with Display("measuring", "image", progress) as display:
            counts = Progress(total, display.show, stepping=False)
            # What an earlier run kept are finished tiles, which have no place here.
            own = (replace(one, kept=None) if isinstance(one, Batch) else one for one in batches)
            yield from Stream(self, replace(options, progress=counts)).begin(own)

    def _warn_of_size(self, batch: Batch, tile: int | None) -> None:
        """Warn, once, of images that are restored whole, of a size far from the model's."""
        size = size_of_images(batch.y, batch.physics)
        if self._said_size or size is None or (tile and max(size) > tile) or (far := self.far_from(size)) is None:
            return
        try:
            self.prior.padding(size)
        except SizeError:  # they will be refused
            return
        self._said_size = True
        name = f'; take it by FlashPipeline.from_pretrained("{PHOTOGRAPHS}")' if self.source == DEFAULT_MODEL else ""
        warnings.warn(f"images of {sized(*size)} are {far}{name}", stacklevel=3)

    def _chosen(self, start: str | StartRule | None) -> str | StartRule:
        """The start, as given or by default."""
        if start is None and self.severity_encoder is None and not self._said_noise:
            self._said_noise = True
            warnings.warn(
                "this model has no severity encoder: images start from noise and make all steps; train one with "
                "`flashdiffusion train severity`",
                stacklevel=4,
            )
        return start or ("flash" if self.severity_encoder is not None else "noise")

    @torch.inference_mode(False)  # a caller's inference mode would leave no gradients for the guidance
    def _stream(
        self, batches: Iterable[Batch | Failed], options: StreamOptions, progress: bool, total: int | None
    ) -> Iterator[Restored]:
        with Display("restoring", "step", progress) as display:
            yield from Stream(self, replace(options, progress=Progress(total, display.show))).run(batches)


def _with_settings(batch: Batch | Failed, own: Settings) -> Batch | Failed:
    if isinstance(batch, Failed) or batch.settings is None:
        return batch
    return replace(batch, settings=batch.settings | own)
