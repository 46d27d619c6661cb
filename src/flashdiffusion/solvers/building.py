"""Solvers and start rules made from their names and settings."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from flashdiffusion.errors import InputError
from flashdiffusion.solvers.registry import SOLVERS, STARTS, Networks
from flashdiffusion.solvers.solver import Solver
from flashdiffusion.solvers.start import StartRule
from flashdiffusion.solvers.transition import Transition


def build_solver(name: str, networks: Networks, transition: Transition, given: Mapping[str, Any]) -> Solver:
    """Build the solver of a registered name, on the transition's grid.

    Raises:
        InputError: a setting out of range.
    """
    entry = SOLVERS[name]
    held = {"prior": networks.prior, "transition": transition, "grid": transition.grid}
    held |= {"decoder": networks.distilled_decoder}
    solver: Solver = _build(entry.cls, entry.values(given), held)
    return solver


def build_start(name: str, networks: Networks, given: Mapping[str, Any]) -> StartRule:
    """Build the start rule of a registered name.

    Raises:
        InputError: a setting out of range, or a network that the model lacks.
    """
    cls, values = STARTS[name].cls, STARTS[name].values(given)
    if hasattr(cls, "build"):
        rule: StartRule = cls.build(networks, **values)
        return rule
    needed = {one.name for one in fields(cls)}
    held: dict[str, Any] = {"prior": networks.prior, "decoder": networks.distilled_decoder}
    if "encoder" in needed:
        held["encoder"] = networks.encoder_for(name)
    if "regressor" in needed:
        held["regressor"] = networks.given_regressor
    rule = _build(cls, values, held)
    return rule


def _build(cls: Any, values: Mapping[str, Any], held: Mapping[str, Any]) -> Any:
    arguments: dict[str, Any] = {}
    for one in fields(cls):
        if "part" in one.metadata:
            arguments[one.name] = _build(one.metadata["part"], values, held)
        elif "setting" in one.metadata:
            arguments[one.name] = values[one.name]
        elif one.init and one.name in held:
            arguments[one.name] = held[one.name]
        elif one.init and one.default is MISSING and one.default_factory is MISSING:
            raise InputError(f"{cls.__name__}.{one.name} is no setting; expected one, or one of {', '.join(held)}")
    return cls(**arguments)
