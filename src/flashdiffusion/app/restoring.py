"""What a click does: measure a picture, look at it, restore it, and keep it all in a folder."""

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashdiffusion.app.choice import MEASURED, PICTURE, Choice, folder_of, script
from flashdiffusion.app.cost import cost_from_noise, solver_from_noise
from flashdiffusion.app.damages import MASK
from flashdiffusion.app.drawing import write_mask
from flashdiffusion.app.limits import Limits
from flashdiffusion.app.run import Tell
from flashdiffusion.app.told import Begun, Click, Column, Counting, Done, Outcome, Step
from flashdiffusion.data import Kind, encode_image, encode_picture, ensure_directory, read_picture, write_bytes
from flashdiffusion.data.decoding import SUFFIXES
from flashdiffusion.data.measurements import SUFFIX
from flashdiffusion.engine.tiling import Tiling, tiling_of
from flashdiffusion.errors import InputError
from flashdiffusion.jobs.degrading import degraded, physics_maker
from flashdiffusion.jobs.job import Item, ModelChoice
from flashdiffusion.jobs.reading import Reader
from flashdiffusion.jobs.records import compare, report
from flashdiffusion.jobs.tiles import InTiles
from flashdiffusion.methods import Settings, default_solver, parse_method
from flashdiffusion.metrics import Metrics, ranked_metrics
from flashdiffusion.model import EMBEDDED_PREFIX
from flashdiffusion.pipeline import Batch, FlashPipeline, Restored
from flashdiffusion.record import Record
from flashdiffusion.seeds import image_generator
from flashdiffusion.severity import coloured, map_picture
from flashdiffusion.solvers import Problem

SPREAD = 0.1  # standard deviation of samples that is shown as the most, on the [0, 1] scale


class Models:
    """The models that the page uses, each loaded when it is first asked for."""

    def __init__(self, device: str | None = None, metrics: Metrics | None = None) -> None:
        self.device, self._loaded = device, dict[str, FlashPipeline]()
        self.metrics = Metrics() if metrics is None else metrics

    def __call__(self, name: str) -> FlashPipeline:
        """Give a model."""
        if name not in self._loaded:
            self._loaded[name] = ModelChoice(EMBEDDED_PREFIX + name, self.device).open()
        return self._loaded[name]


@dataclass(frozen=True)
class _Prepared:
    """A measurement as it is restored. image: what it looks like, (3, H, W). truth: (3, H, W), if it is known."""

    problem: Problem
    kind: Kind
    image: Tensor
    truth: Tensor | None
    record: Record
    tiling: Tiling | None
    notes: tuple[str, ...]


def restore(models: Models, click: Click, tell: Tell) -> None:
    """Do what a click asks for, and tell of it.

    Raises:
        FlashDiffusionError: it cannot be done, and why.
    """
    choice, limits = click.choice, click.limits
    if choice.samples > limits.samples:
        raise InputError(f"{choice.samples} samples; expected at most {limits.samples} here")
    limits.check_file(click.picture, click.picture.name)
    if choice.kind.masked:
        write_mask(click.drawn, click.picture, click.folder / MASK)
    picture = _copied(click.picture, click.folder)
    pipeline = models(choice.model)
    prepared = _prepared(pipeline, choice, click.folder, picture, limits)
    begun = _begun(models, pipeline, choice, prepared)
    tell(begun)
    outcomes = [_outcome(models, choice, method, prepared, begun.record.start_step, tell) for method in choice.methods]
    commands = script(choice.commands(picture.name))
    bundle = _bundle(pipeline, choice, click.folder, picture, begun, outcomes, commands)
    tell(Done(begun, outcomes, _columns(begun, outcomes), commands, bundle))


def _columns(begun: Begun, outcomes: list[Outcome]) -> tuple[Column, ...]:
    """Metrics that have a figure, of those by which one image is better than another."""
    known = begun.quality.keys() | {name for one in outcomes for name in one.record.metrics}
    ranked = [one for one in ranked_metrics().values() if one.name in known]
    return tuple(Column(one.name, one.heading, bool(one.higher), one.digits) for one in ranked)


def _prepared(pipeline: FlashPipeline, choice: Choice, folder: Path, picture: Path, limits: Limits) -> _Prepared:
    physics, truth, source, notes = choice.physics(folder), None, picture, tuple[str, ...]()
    if choice.damaged:
        reader = Reader(pipeline, physics, choice.noise_std, choice.seed, choice.fit, True, None, limits.pixels)
    else:
        whole = read_picture(picture)
        notes = whole.notes
        draw = partial(image_generator, choice.seed, PICTURE)
        side = (pipeline.sample_size or 0) if choice.fit else 0
        assert choice.noise_std is not None
        made = degraded(picture, whole, side, physics_maker(physics, "gaussian-blur", choice.noise_std), draw)
        source = ensure_directory(folder / MEASURED) / f"{PICTURE}{SUFFIX}"
        made.measured(PICTURE, picture.name, choice.fit)[0].save(source)
        truth = made.picture.values
        reader = Reader(pipeline, seed=choice.seed, needed=True, tile=None, most=limits.pixels)
    item = Item(0, PICTURE, str(source))
    problem = reader(item)
    tiling = tiling_of(problem.y, problem.physics, pipeline, None)
    tiling = tiling if isinstance(tiling, Tiling) else None
    image = problem.image if tiling is not None else problem.cropped(problem.image)
    limits.check_size(image.shape[2], image.shape[3], "the result")
    degradation = None if not hasattr(problem.physics, "describe") else problem.physics.describe()[0]
    record = Record(PICTURE, degradation, item.noise_std)
    told = (*notes, *(text.removeprefix(f"{source} ").removeprefix(f"{source}: ") for text in item.notes))
    return _Prepared(problem, item.kind, image[0].cpu(), truth, record, tiling, told)


def _begun(models: Models, pipeline: FlashPipeline, choice: Choice, prepared: _Prepared) -> Begun:
    settings = _settings(choice, choice.methods[0])  # the grid of which the start is one time depends on them
    (one,) = pipeline.begin([Batch.of([PICTURE], prepared.problem, settings)], seed=choice.seed)
    if one.failed is not None:
        raise InputError(one.failed)
    record = replace(prepared.record, severity=one.severity, start_step=one.start_step)
    size = prepared.image.shape[1], prepared.image.shape[2]
    shown = None if one.severity_map is None else encode_image(map_picture(one.severity_map, size))
    looked_at = prepared.image.clamp(0, 1)
    quality = {} if prepared.truth is None else models.metrics(looked_at, prepared.truth).values
    measured = encode_picture(looked_at, prepared.kind)
    tiles = None if prepared.tiling is None else prepared.tiling.shape
    return Begun(choice, measured, shown, record, quality, tiles, len(pipeline.prior.schedule), prepared.notes)


def _outcome(models: Models, choice: Choice, method: str, prepared: _Prepared, time: int | None, tell: Tell) -> Outcome:
    pipeline = models(choice.model)
    results = sorted(_restored(pipeline, choice, method, prepared, time, tell), key=lambda one: one.index)
    if (reason := next((one.failed for one in results if one.failed is not None), None)) is not None:
        raise InputError(reason)
    images = [one.image for one in results if one.image is not None]
    grey = prepared.kind.grey
    images = [image.mean(dim=0, keepdim=True) if grey else image for image in images]
    first = results[0]
    measured = prepared.problem if prepared.tiling is None else InTiles(prepared.problem, prepared.tiling)
    image = images[0].expand(3, -1, -1)
    quality = compare(models.metrics, image, prepared.truth, prepared.image, measured)
    record = replace(prepared.record, **first.row(), **quality)
    std = torch.stack(images).std(dim=0, correction=0).mean(dim=0) if len(images) > 1 else None
    given = _settings(choice, method)
    tell(Counting(method))
    noise = solver_from_noise(method), cost_from_noise(pipeline, prepared.problem, method, given)
    return Outcome(
        method,
        encode_picture(images[0], prepared.kind),
        record,
        [encode_picture(one, prepared.kind) for one in images[1:]],
        None if std is None else encode_image(coloured(std / SPREAD)),
        None if std is None else float(std.mean()),
        None if first.tiles is None else encode_image(first.tiles.picture),
        noise,
    )


def _restored(
    pipeline: FlashPipeline, choice: Choice, method: str, prepared: _Prepared, time: int | None, tell: Tell
) -> Iterator[Restored]:
    start, solver = parse_method(method)
    settings = _settings(choice, method)
    total = None if prepared.tiling is not None else _steps(pipeline, prepared.problem, start, solver, settings, time)
    taken: dict[str, int] = {}

    def show(step: int, estimates: Tensor, ids: list[str]) -> None:
        for name, image in zip(ids, estimates, strict=True):
            taken[name] = taken.get(name, 0) + 1
            if name == PICTURE:
                number = taken[name] if prepared.tiling is None else step
                tell(Step(method, number, total, encode_image(image)))

    batch = Batch.of([PICTURE], prepared.problem, settings, samples=choice.samples)
    yield from pipeline.stream([batch], solver=solver, start=start, seed=choice.seed, callback=show)


def _settings(choice: Choice, method: str) -> Settings | None:
    given = choice.given(method)
    return Settings(**given) if given else None


def _steps(
    pipeline: FlashPipeline, problem: Problem, start: str, solver: str, settings: Settings | None, time: int | None
) -> int | None:
    """How many steps a method makes: from noise all of its grid, from the severity's start those that are left.

    None where that is not known before: the start was looked for on the grid of the default solver.
    """
    known = start == "noise" or (start == "flash" and solver == default_solver(start, ()) and time is not None)
    if not known:
        return None
    grid = pipeline.method(solver, start, pipeline.settings_for(problem.physics, start, solver, settings))[0].grid
    return len(grid) if start == "noise" or time is None else grid.nearest(time)


def _bundle(
    pipeline: FlashPipeline,
    choice: Choice,
    folder: Path,
    picture: Path,
    begun: Begun,
    outcomes: list[Outcome],
    commands: str,
) -> bytes:
    """All that was made, and what it was made of, as a ZIP file whose folder the commands run in."""
    records = [outcome.record for outcome in outcomes]
    about: dict[str, Any] = report(pipeline.device, {"seed": choice.seed, "methods": list(choice.methods)}, records)
    about["command"] = commands.splitlines()
    files = {picture.name: picture.read_bytes(), "command.sh": f"#!/bin/sh\nset -e\n{commands}\n".encode()}
    if choice.kind.masked:
        files[MASK] = (folder / MASK).read_bytes()
    files |= {"page/measurement.png": begun.measured, "page/results.json": json.dumps(about, indent=1).encode()}
    if begun.map is not None:
        files["page/severity.png"] = begun.map
    for n, outcome in enumerate(outcomes):
        own = f"page/{folder_of(n)}"
        files[f"{own}.png"] = outcome.image
        files |= {f"{own}-sample-{k}.png": other for k, other in enumerate(outcome.others, 2)}
        if outcome.spread is not None:
            files[f"{own}-spread.png"] = outcome.spread
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def _copied(source: Path, folder: Path) -> Path:
    """The picture in the click's folder, by the name that commands know it by; its own suffix is kept."""
    suffix = source.suffix.lower()
    target = folder / f"{PICTURE}{suffix if suffix in SUFFIXES else '.png'}"  # how it is read, its content says
    write_bytes(target, source.read_bytes())
    return target
