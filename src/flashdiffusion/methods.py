"""Methods by name: where to start x which solver; `flash(latent-dps)` and `latent-dps` differ in the start only."""

from collections.abc import Sequence
from dataclasses import dataclass

from flashdiffusion.errors import InputError, unknown_name
from flashdiffusion.priors import LatentPrior
from flashdiffusion.sampling import Fixed, FromNoise, LatentDPS, SNRMatch, Solver, StartRule, Transition
from flashdiffusion.severity import SeverityEncoder

METHODS = ("ae", "latent-dps", "flash(latent-dps)")
_ALIASES = {"flash": "flash(latent-dps)"}
SOLVERS = ("latent-dps", "prior")
STARTS = ("flash", "noise", "estimate")


@dataclass(frozen=True)
class Settings:
    """Hyperparameters of a method.

    eta: η >= 0, step size of the data consistency. correction: c >= 0, noise correction of the start. steps: length
    of the time grid, 1 to N; None for all N (DDPM's 1000). delta: δ in [0, 1], stochasticity of a step. mixing:
    "paper" or "consistent", see `SNRMatch`. They are checked by the solver and start rule they go to.
    """

    eta: float = 1.0
    correction: float = 1.2
    steps: int | None = None
    delta: float = 1.0
    mixing: str = "paper"


def make_solver(name: str, prior: LatentPrior, settings: Settings) -> Solver:
    """The solver of that name; "prior" is the unconditional sampler (η = 0).

    Raises:
        InputError: unknown name, or a setting out of range.
    """
    if name not in SOLVERS:
        raise unknown_name("solver", name, SOLVERS)
    transition = Transition(prior.schedule.grid(settings.steps), settings.delta)
    return LatentDPS(prior, transition, settings.eta if name == "latent-dps" else 0.0)


def make_start(name: str, encoder: SeverityEncoder | None, settings: Settings) -> StartRule:
    """The start rule of that name: "flash" (SNR match), "noise", or "estimate" (ẑ, no steps).

    Raises:
        InputError: unknown name, a setting out of range, or no severity encoder for a rule that needs one.
    """
    if name not in STARTS:
        raise unknown_name("start", name, STARTS)
    if name == "noise":
        return FromNoise()
    if encoder is None:
        raise InputError(f"start {name!r} needs a severity encoder and this model has none; use start='noise'")
    if name == "estimate":
        return Fixed(0, encoder)
    return SNRMatch(encoder, settings.correction, settings.mixing)


def parse_method(text: str, others: Sequence[str] = ()) -> tuple[str, str]:
    """`flash(latent-dps)` -> ("flash", "latent-dps"): names of a start and a solver.

    Args:
        others: further names that the caller knows, for the error.

    Raises:
        InputError: unknown method.
    """
    name = text.lower().replace(" ", "")
    name = _ALIASES.get(name, name)
    if name not in METHODS:
        raise unknown_name("method", text, [*METHODS, *_ALIASES, *others])
    if name == "ae":
        return "estimate", "prior"
    if name.startswith("flash("):
        return "flash", name.removeprefix("flash(").removesuffix(")")
    return "noise", name
