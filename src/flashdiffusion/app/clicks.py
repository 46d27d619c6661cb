"""What a click does: the page's fields turned into a run, and what the run tells into parts of the page."""

import base64
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from tempfile import mkdtemp
from threading import Lock
from typing import Any

from PIL import Image

from flashdiffusion.app import figures
from flashdiffusion.app.choice import METHODS, PICTURE, Choice
from flashdiffusion.app.damages import DAMAGES, FACES, PHOTOGRAPHS
from flashdiffusion.app.limits import PREVIEW, Limits
from flashdiffusion.app.run import Failure, Run, Runs, Tell
from flashdiffusion.app.told import Begun, Click, Counting, Done, Outcome, Restore, Step
from flashdiffusion.errors import FlashDiffusionError, InputError

EXAMPLES = {FACES: "portrait.png", PHOTOGRAPHS: "photograph.jpg"}
EVERY = 0.1  # seconds from one live view to the next, at least
NONE = "none"  # in place of a second method


def example(model: str) -> Path:
    """The bundled picture for a model."""
    return Path(str(files("flashdiffusion") / "assets" / EXAMPLES[model]))


@dataclass
class Clicks:
    """What the page does for its visitors.

    restore: does a click. folder: where files of runs lie while they are made.
    """

    restore: Restore
    limits: Limits
    folder: Path
    runs: Runs = field(init=False)
    _seen: dict[str, Path] = field(default_factory=dict)  # folders of what is shown of pictures, by visitor
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self.runs = Runs(self.limits.waiting)

    def preview(self, path: str | Path, visitor: str) -> str:
        """Check a picture, and make what is shown of it: upright, of a size that a page can take, as a file.

        An example is shown as it is. The file is there until the next of this visitor, or until they leave.

        Raises:
            InputError: it cannot be taken, and why.
        """
        path = Path(path)
        image = None if path in map(example, EXAMPLES) else self._checked(path)
        folder = Path(mkdtemp(dir=self.folder))
        target = folder / (path.name if image is None else f"{path.stem}.png")
        if image is None:
            shutil.copy(path, target)
        else:
            image.save(target)
        with self._lock:
            before, self._seen[visitor] = self._seen.get(visitor), folder
        _delete(before)
        return str(target)

    def _checked(self, path: Path) -> Image.Image:
        """A picture, as it is shown."""
        from flashdiffusion.data import read_picture  # torch: seconds, which the examples need not wait
        from flashdiffusion.data.images import to_pil

        self.limits.check_file(path, path.name)
        try:
            image = to_pil(read_picture(path).values)
        except InputError as error:
            raise InputError(str(error).replace(f"{path}:", f"{path.name}:")) from error
        image.thumbnail((PREVIEW, PREVIEW), Image.Resampling.LANCZOS)
        return image

    def left(self, visitor: str) -> None:
        """Stop what a visitor has under way, and delete what was made for them."""
        self.runs.stop(visitor)
        _delete(self._seen.pop(visitor, None))

    def begin(
        self, visitor: str, ticket: str, picture: str | None, drawn: Sequence[str | bytes] | None, choice: Choice
    ) -> Run:
        """Begin the run that a visitor asked for (`Runs.ask`).

        Args:
            ticket: that they were given for it.
            picture: file of the picture.
            drawn: layers that were drawn over it, as image files or their content.

        Raises:
            Stopped: they stopped it while they were in line.
        """
        source = Path(picture or "")

        def work(tell: Tell) -> None:
            if not source.is_file():
                raise InputError("there is no picture yet; drop one on the page, or pick one of the examples")
            own = Path(mkdtemp(dir=self.folder))
            layers = tuple(drawn or ()) if choice.kind.masked else ()
            try:
                self.restore(Click(choice, own, source, self.limits, layers), tell)
            finally:
                shutil.rmtree(own, ignore_errors=True)

        return self.runs.begin(visitor, ticket, Run(work))


def _delete(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


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
        match word:
            case Begun():
                yield _begun(word, keep)
            case Step():
                if (now := time.monotonic()) - shown_at >= EVERY:
                    shown_at = now
                    yield _step(word)
            case Counting():
                yield {"status": figures.status("Counting what it would cost from noise", "busy", share=1)}
            case Done():
                yield _done(word, keep)
    if run.stopped:  # Gradio gives the last word once more when the run has ended
        yield {"status": figures.status("Stopped")}


def _begun(begun: Begun, keep: Callable[[str, bytes], str]) -> dict[str, Any]:
    found = {
        "status": figures.status("Looked at; the first step is on its way", "busy", share=0),
        "measured": keep("measurement.png", begun.measured),
        "severity": figures.severity(begun),
        "live": _live(begun.measured, "The measurement"),
    }
    return found | {"map": None if begun.map is None else keep("severity.png", begun.map)}


def _step(step: Step) -> dict[str, Any]:
    of, share = "", None
    if step.total is not None and step.number <= step.total:
        of, share = f" of {step.total}", step.number / step.total
    return {
        "status": figures.status(f"{step.method}: step {step.number}{of}", "busy", share=share),
        "live": _live(step.image, f"Step {step.number}: what it would be if it ended now"),
    }


def _live(png: bytes, text: str) -> str:
    data = base64.b64encode(png).decode()
    image = f'<img src="data:image/png;base64,{data}" alt="{text}">'
    return f'<figure class="live">{image}<figcaption>{text}</figcaption></figure>'


def _done(done: Done, keep: Callable[[str, bytes], str]) -> dict[str, Any]:
    begun, outcomes = done.begun, done.outcomes
    first = outcomes[0]
    measured = keep("measurement.png", begun.measured)
    restored = [keep(f"{PICTURE}-restored-{n}.png", one.image) for n, one in enumerate(outcomes, 1)]
    names = [METHODS[begun.choice.model][one.method] for one in outcomes]
    seconds = sum(one.record.seconds or 0 for one in outcomes)
    found = {
        "status": figures.status(f"Done in {seconds:.1f} seconds"),
        "slider": (measured, restored[0]),
        "results": figures.results(done),
        "tiles": None if first.steps is None else keep("steps.png", first.steps),
        "compare": (restored[0], restored[1]) if len(restored) > 1 else None,
        "compared": " | ".join(names) if len(names) > 1 else "",
        "result_file": restored[0],
        "bundle_file": keep("flashdiffusion.zip", done.bundle),
        "command": done.commands,
    }
    return found | _samples(first, restored[0], keep)


def _samples(outcome: Outcome, first: str, keep: Callable[[str, bytes], str]) -> dict[str, Any]:
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
