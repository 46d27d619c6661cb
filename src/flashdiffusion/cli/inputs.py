"""INPUT... of the commands: measurement files, images, folders of either; bad ones are kept apart."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flashdiffusion.errors import FlashDiffusionError, InputError, note

if TYPE_CHECKING:
    from flashdiffusion.data import ImageDataset

LONGEST = 235  # bytes of a name, so that it fits into the 255 of a file's with a number and .safetensors


@dataclass
class Failures:
    """Inputs that could not be used, with the reason."""

    reasons: list[tuple[str, str]] = field(default_factory=list)

    @contextmanager
    def kept(self, name: str | Path) -> Iterator[None]:
        """Keep an error of ours as the reason why this input failed."""
        try:
            yield
        except FlashDiffusionError as error:
            self.reasons.append((str(name), str(error)))

    def finish(self, total: int) -> int:
        """Print what failed; the exit code. Raises InputError if the only input failed, or all for the same reason."""
        reasons = {reason for _, reason in self.reasons}
        if 1 < total == len(self.reasons) and len(reasons) == 1:
            raise InputError(reasons.pop())
        lines = [reason if _names(reason, name) else f"{name}: {reason}" for name, reason in self.reasons]
        if total == 1 and lines:
            raise InputError(lines[0])
        for line in lines:
            print(f"flashdiffusion: failed: {' '.join(line.split())}", file=sys.stderr)
        return 1 if lines else 0


@dataclass
class SharedNotes:
    """What is so of some of many inputs, told once."""

    found: dict[str, list[tuple[int, str]]] = field(default_factory=dict)

    def add(self, shared: Mapping[str, str], index: int) -> None:
        """Take what is so of an input, see `Item.shared`, by its place among all."""
        for what, which in shared.items():
            self.found.setdefault(what, []).append((index, which))

    def say(self, total: int) -> None:
        """Tell of how many it is so, and of which first."""
        for what, some in self.found.items():
            note(f"{len(some)} of {total} images {what}; first: {min(some)[1]}")


def _names(reason: str, name: str) -> bool:
    """Whether a reason says whose it is; a name that is no file's may be a word of it by chance."""
    return reason.startswith(f"{name}:") or (bool(Path(name).suffix) and name in reason)


def named(inputs: Iterable[Path]) -> dict[str, Path]:
    """The files that INPUT... stands for, each by the name of its outputs: its stem, numbered where stems repeat."""
    from flashdiffusion.data.files import cut, unique

    files = expand(inputs)
    return dict(zip(unique(cut(file.stem, LONGEST) for file in files), files, strict=True))


def expand(inputs: Iterable[Path]) -> list[Path]:
    """Files as given; of a folder and those below its measurement files, else its images, else its arrays.

    What is passed over is noted.
    """
    from flashdiffusion.data.arrays import ARRAYS
    from flashdiffusion.data.decoding import SUFFIXES
    from flashdiffusion.data.measurements import SUFFIX
    from flashdiffusion.data.walking import walk

    files: list[Path] = []
    for path in inputs:
        if not path.is_dir():
            files.append(path)
            continue
        found, passed = walk(path, SUFFIXES | ARRAYS | {SUFFIX})
        if not found:
            raise InputError(f"{path} holds neither measurement files nor images; {passed.say('it') or 'it is empty'}")
        kinds = ({SUFFIX}, SUFFIXES, ARRAYS)
        measurements, images, arrays = ([file for file in found if file.suffix.lower() in kind] for kind in kinds)
        looked_at = {file.with_suffix(".png") for file in measurements}  # what `degrade` writes beside them
        if measurements and (beside := set(images) - looked_at):
            passed.others["images beside measurement files"] = len(beside)
        if arrays and (measurements or images):
            passed.others["arrays beside them"] = len(arrays)
        if (text := passed.say(path)) is not None:
            note(text)
        files += measurements or images or arrays
    return files


def noted(images: "ImageDataset") -> "ImageDataset":
    """The images; what was passed over is noted."""
    for text in images.notes:
        note(text)
    return images


def keep_inputs(files: Mapping[str, Path], out: Path, *suffixes: str, others: Iterable[Path] = ()) -> None:
    """Raise InputError if an output `out`/NAME.suffix would overwrite one of the input files, or of the others."""
    inputs = {file.resolve() for file in (*files.values(), *others)}
    for path in (out / f"{name}{suffix}" for name in files for suffix in suffixes):
        if path.resolve() in inputs:
            raise InputError(f"{path} is an input and would be overwritten; choose another --out")
