"""Degradations by name: one call beside the class registers it for the command line, tasks and tests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, TypeVar

from flashdiffusion.errors import InputError, check_name
from flashdiffusion.physics.base import BatchedPhysics
from flashdiffusion.physics.tasks import Task, build, register_task

Class = TypeVar("Class", bound=type[BatchedPhysics])
# Arguments that a form is given besides its own parameters, if it has them.
CONTEXT = {"size", "generator", "noise_std", "image", "original"}


@dataclass(frozen=True)
class Form:
    """One way to write an operator on the command line.

    make: what builds it for one image; its arguments are the parameters: files where annotated `Path`, numbers (1,)
    otherwise, and those with a default may be left out. It is given `size` (H, W), `generator` and `noise_std` if it
    has arguments of these names. drawn: what it draws at random, which is unknown to those who restore an image.
    """

    make: Callable[..., BatchedPhysics]
    drawn: str | None = None

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The form's own parameters by name."""
        known = signature(self.make, eval_str=True).parameters
        return {name: one for name, one in known.items() if name not in CONTEXT}

    @property
    def files(self) -> set[str]:
        """Names of the parameters that are files."""
        return {name for name, one in self.parameters.items() if one.annotation is Path}

    @property
    def needed(self) -> set[str]:
        """Names of the required parameters."""
        return {name for name, one in self.parameters.items() if one.default is Parameter.empty}

    def build(self, values: dict[str, Any], **context: Any) -> BatchedPhysics:
        """Build the operator from its parameters and from what every form is given."""
        return build(self.make, **values, **context)


@dataclass(frozen=True)
class Registered:
    """A degradation, and how it is written on the command line."""

    cls: type[BatchedPhysics]
    forms: Sequence[Form] = ()


PHYSICS: dict[str, Registered] = {}


def register_physics(cls: Class, *, forms: Sequence[Form] = (), tasks: Sequence[Task] = ()) -> Class:
    """Register a degradation by its `name` for the command line, measurement files and tasks.

    Args:
        forms: how it is written on the command line.
        tasks: distributions of its parameters.

    Raises:
        InputError: the name, or that of a task, is taken or malformed.
    """
    name = cls.name
    if not name.replace("-", "").isalnum() or name != name.lower():
        raise InputError(f"name {name!r}; expected lower-case letters, digits and dashes")
    known = PHYSICS[name].cls if name in PHYSICS else cls
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise InputError(f"the name {name!r} is taken by {known.__name__}; choose another")
    for task in tasks:
        register_task(replace(task, physics=name))
    PHYSICS[name] = Registered(cls, forms)
    return cls


def get_physics(name: str) -> Registered:
    """Return the degradation of this name; raises InputError if there is none."""
    check_name("physics", name, PHYSICS, "docs/degradations.md")
    return PHYSICS[name]
