"""The errors a user can cause; the command line prints them in one line and exits with 2."""

import reprlib
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class FlashDiffusionError(Exception):
    """Base of every error that the library raises on purpose."""


class InputError(FlashDiffusionError, ValueError):
    """A value, file or option that cannot be used; the message says what was expected."""


class SizeError(InputError):
    """Images of a size that the model cannot take."""


class AreaError(InputError):
    """Images of more pixels than are allowed."""


class UnsuitedError(InputError):
    """A method that a task, or a model, cannot have."""


class CheckpointError(InputError):
    """A folder or file that is not the checkpoint it is taken for."""


class UntunedWarning(UserWarning):
    """A model's settings were not tuned for it."""


NAMED = 6  # names that an error lists at most


def check_name(kind: str, name: str, known: Collection[str], where: str = "") -> None:
    """Raise InputError, see `unknown_name`, if a name is none of those that are known."""
    if name not in known:
        raise unknown_name(kind, name, known, where)


def unknown_name(kind: str, name: str, known: Iterable[str], where: str = "") -> InputError:
    """Error for a name that is not registered, with the nearest names that are; `where` all of many are listed."""
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.4)
    all_named = not where or len(names) <= NAMED
    some = names if all_named else [*get_close_matches(name, names, n=NAMED, cutoff=0), "..."]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(some)}"
    more = "" if all_named else f" ({len(names)} in all: {where})"
    return InputError(f"unknown {kind} {name!r}; {hint}{more}")


def note(text: str) -> None:
    """Tell the user on stderr of what was done otherwise than asked."""
    print(f"flashdiffusion: note: {text}", file=sys.stderr)


def counted(count: int, what: str) -> str:
    """A number of things: "1 image", "3 images"."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def sized(height: int, width: int) -> str:
    """A size as errors and notes name it: "24 x 32 pixels (height x width)"; of a square, "32 x 32 pixels"."""
    return f"{height} x {width} pixels" + ("" if height == width else " (height x width)")


def brief(error: Exception, limit: int = 240) -> str:
    """The message of another library's error in one line of at most `limit` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80


def shown(value: object) -> str:
    """A value of a file as errors print it: in one line, and short however large it is."""
    try:
        return _repr.repr(value)
    except ValueError:  # a whole number of more digits than Python prints
        return f"a {type(value).__name__} too large to print"


@contextmanager
def blamed_on(source: object, kind: type[InputError] = CheckpointError) -> Iterator[None]:
    """Let what is raised in the block be an error of this kind about `source`; one that is raised as such stays."""
    try:
        yield
    except kind:
        raise
    except Exception as error:  # other libraries raise many kinds, RecursionError and MemoryError among them
        raise kind(f"{source}: {brief(error)}") from error


@contextmanager
def read_as(what: str) -> Iterator[None]:
    """Let an InputError of a file that is read in the block say what it is read as, such as a mask."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{what}: {error}") from error


# What allocators, cuBLAS and cuDNN say; torch has a class of its own for its GPU allocator alone.
_PHRASES = ("can't allocate memory", "out of memory", "alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _PHRASES)
