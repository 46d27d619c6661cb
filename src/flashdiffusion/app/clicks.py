"""What a click does: the page's fields turned into a run, and what the run tells into parts of the page."""

import base64
import io
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from tempfile import mkdtemp
from threading import Lock
from typing import TYPE_CHECKING, Any

from flashdiffusion.app import figures
from flashdiffusion.app.choice import METHODS, PICTURE, Choice
from flashdiffusion.app.damages import DAMAGES, FACES, MASK, PHOTOGRAPHS
from flashdiffusion.app.limits import Limits
from flashdiffusion.app.run import Failure, Run, Runs
from flashdiffusion.errors import FlashDiffusionError, InputError, sized

if TYPE_CHECKING:  # torch takes seconds, and the page is to be there first
    from PIL.Image import Image

    from flashdiffusion.app.restoring import Begun, Done, Models, Outcome

EXAMPLES = {FACES: "portrait.png", PHOTOGRAPHS: "photograph.jpg"}
PREVIEW = 1024  # pixels of the longer side of what is shown of a picture
EVERY = 0.1  # seconds from one live view to the next, at least
DRAWN = 4 * PREVIEW**2  # pixels of a drawing, on a screen of fine ones
DRAWINGS = ("PNG", "WEBP")  # how it is sent
LAYERS = 16  # as which it is sent at most: the editor sends one anew as it is drawn
NONE = "none"  # in place of a second method


def example(model: str) -> Path:
    """The bundled picture for a model."""
    return Path(str(files("flashdiffusion") / "assets" / EXAMPLES[model]))


@dataclass
class Clicks:
    """What the page does for its visitors, with one set of models for all.

    models: makes them, once they are needed. folder: where files of runs lie while they are made.
    """

    make_models: "Callable[[], Models]"
    limits: Limits
    folder: Path
    runs: Runs = field(init=False)
    _models: "Models | None" = None
    _seen: dict[str, Path] = field(default_factory=dict)  # folders of what is shown of pictures, by visitor
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self.runs = Runs(self.limits.waiting)

    @property
    def models(self) -> "Models":
        """The models; made when they are first asked for."""
        with self._lock:
            if self._models is None:
                self._models = self.make_models()
            return self._models

    def preview(self, path: str | Path, visitor: str) -> str:
        """Check a picture, and make what is shown of it: upright, of a size that a page can take, as a PNG file.

        The file is there until the next of this visitor, or until they leave.

        Raises:
            InputError: it cannot be taken, and why.
        """
        from PIL import Image

        from flashdiffusion.data import read_picture
        from flashdiffusion.data.images import to_pil

        path = Path(path)
        self.limits.check_file(path, path.name)
        try:
            image = to_pil(read_picture(path).values)
        except InputError as error:
            raise InputError(str(error).replace(f"{path}:", f"{path.name}:")) from error
        image.thumbnail((PREVIEW, PREVIEW), Image.Resampling.LANCZOS)
        folder = Path(mkdtemp(dir=self.folder))
        before, self._seen[visitor] = self._seen.get(visitor), folder
        _delete(before)
        target = folder / f"{path.stem}.png"
        image.save(target)
        return str(target)

    def left(self, visitor: str) -> None:
        """Stop what a visitor has under way, and delete what was made for them."""
        self.runs.stop(visitor)
        _delete(self._seen.pop(visitor, None))

    def begin(self, visitor: str, ticket: str, picture: str | None, drawn: Any, choice: Choice) -> Run:
        """Begin the run that a visitor asked for (`Runs.ask`).

        Args:
            ticket: that they were given for it.
            picture: file of the picture.
            drawn: layers that were drawn over it, as image files or their content.

        Raises:
            Stopped: they stopped it while they were in line.
        """
        source = Path(picture or "")

        def work(tell: Callable[[Any], None]) -> None:
            from flashdiffusion.app.restoring import restore, write_upload

            if not source.is_file():
                raise InputError("there is no picture yet; drop one on the page, or pick one of the examples")
            own = Path(mkdtemp(dir=self.folder))
            try:
                self.limits.check_file(source, source.name)
                if choice.kind.masked:
                    write_mask(drawn, source, own / MASK)
                restore(self.models, choice, own, write_upload(source, own), self.limits, tell)
            finally:
                shutil.rmtree(own, ignore_errors=True)

        return self.runs.begin(visitor, ticket, Run(work))


def _delete(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def write_mask(drawn: "Sequence[str | bytes] | None", picture: Path, target: Path) -> None:
    """Write what was drawn over a picture as its mask, of its own size: white where nothing was.

    Args:
        drawn: layers as image files, or their content; the page sends some of one drawing.

    Raises:
        InputError: nothing was drawn, or what was sent is no such drawing.
    """
    import numpy as np
    from PIL import Image

    from flashdiffusion.data.decoding import size_of

    height, width = size_of(picture)
    lost = np.zeros((height, width), bool)
    if len(drawn or ()) > LAYERS:
        raise InputError(f"{len(drawn or ())} layers are drawn on the picture; expected at most {LAYERS}")
    for layer in drawn or ():
        alpha = _drawing(layer).getchannel("A")
        lost |= np.asarray(alpha.resize((width, height), Image.Resampling.BILINEAR)) > 0
    if not lost.any():
        raise InputError("nothing is drawn on the picture; draw over the parts that are missing, then restore")
    Image.fromarray(np.where(lost, 0, 255).astype(np.uint8)).save(target)


def _drawing(layer: str | bytes) -> "Image":
    """A layer's picture, of RGBA; its pixels are read if they are not too many."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(layer) if isinstance(layer, bytes) else layer, formats=DRAWINGS) as image:
            if image.width * image.height > DRAWN:
                raise InputError(f"the drawing has {sized(*image.size[::-1])}; expected at most {DRAWN} pixels")
            return image.convert("RGBA")
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"the drawing cannot be read; expected one of {', '.join(DRAWINGS)}") from error


def choice_of(
    model: str,
    damaged: bool,
    damage: str,
    strengths: Sequence[float],
    noise: float,
    estimated: bool,
    method: str,
    other: str,
    quality: str,
    samples: float,
    seed: float | None,
) -> Choice:
    """What the page's fields say. Raises InputError as `Choice`."""
    kind = DAMAGES.get(damage)
    own = tuple(strengths[: len(kind.strengths)]) if kind is not None else ()
    methods = (method,) if other == NONE else (method, other)
    if seed is None or seed != int(seed) or seed < 0:
        raise InputError(f"seed is {seed}; expected a whole number from 0")
    std = None if damaged and estimated else noise
    return Choice(model, damage, own, damaged, std, methods, quality, int(samples), int(seed))


def words(run: Run, keep: Callable[[str, bytes], str]) -> Iterator[dict[str, Any]]:
    """What a run tells, as values of parts of the page by their names.

    Args:
        keep: writes a file by this name, and gives its path.
    """
    shown_at = 0.0
    for word in run.events():
        if isinstance(word, Failure):
            yield {"status": figures.status(str(word), "error")}
            continue
        from flashdiffusion.app import restoring

        match word:
            case restoring.Begun():
                yield _begun(word, keep)
            case restoring.Step():
                if (now := time.monotonic()) - shown_at >= EVERY:
                    shown_at = now
                    yield _step(word)
            case restoring.Counting():
                yield {"status": figures.status("Counting what it would cost from noise", "busy", share=1)}
            case restoring.Done():
                yield _done(word, keep)
    if run.stopped:  # Gradio gives the last word once more when the run has ended
        yield {"status": figures.status("Stopped")}


def _begun(begun: "Begun", keep: Callable[[str, bytes], str]) -> dict[str, Any]:
    found = {
        "status": figures.status("Looked at; the first step is on its way", "busy", share=0),
        "measured": keep("measurement.png", begun.measured),
        "severity": figures.severity(begun),
        "live": _live(begun.measured, "The measurement"),
    }
    return found | {"map": None if begun.map is None else keep("severity.png", begun.map)}


def _step(step: Any) -> dict[str, Any]:
    of = "" if step.total is None or step.number > step.total else f" of {step.total}"
    share = None if not of else step.number / step.total
    return {
        "status": figures.status(f"{step.method}: step {step.number}{of}", "busy", share=share),
        "live": _live(step.image, f"Step {step.number}: what it would be if it ended now"),
    }


def _live(png: bytes, text: str) -> str:
    data = base64.b64encode(png).decode()
    image = f'<img src="data:image/png;base64,{data}" alt="{text}">'
    return f'<figure class="live">{image}<figcaption>{text}</figcaption></figure>'


def _done(done: "Done", keep: Callable[[str, bytes], str]) -> dict[str, Any]:
    begun, outcomes = done.begun, done.outcomes
    first = outcomes[0]
    measured = keep("measurement.png", begun.measured)
    restored = [keep(f"{PICTURE}-restored-{n}.png", one.image) for n, one in enumerate(outcomes, 1)]
    names = [METHODS[begun.choice.model][one.method] for one in outcomes]
    seconds = sum(one.record.seconds or 0 for one in outcomes)
    found = {
        "status": figures.status(f"Done in {seconds:.1f} seconds"),
        "slider": (measured, restored[0]),
        "results": figures.results(begun, outcomes, "lpips" in first.record.metrics),
        "tiles": None if first.steps is None else keep("steps.png", first.steps),
        "compare": (restored[0], restored[1]) if len(restored) > 1 else None,
        "compared": " | ".join(names) if len(names) > 1 else "",
        "result_file": restored[0],
        "bundle_file": keep("flashdiffusion.zip", done.bundle),
        "command": done.commands,
    }
    return found | _samples(first, restored[0], keep)


def _samples(outcome: "Outcome", first: str, keep: Callable[[str, bytes], str]) -> dict[str, Any]:
    if outcome.spread is None:
        return {"samples": None, "spread": None, "deviation": ""}
    others = [keep(f"{PICTURE}-sample-{n}.png", image) for n, image in enumerate(outcome.others, 2)]
    return {
        "samples": [(path, f"Sample {n}") for n, path in enumerate([first, *others], 1)],
        "spread": keep("spread.png", outcome.spread),
        "deviation": f"Samples differ by {outcome.deviation:.3f} on average (standard deviation, values in [0, 1])",
    }


def refused(error: FlashDiffusionError) -> dict[str, Any]:
    """What the page says where a click cannot be done."""
    return {"status": figures.status(str(error), "error")}
