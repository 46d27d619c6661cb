"""Methods by name: where to start x which solver; `flash(latent-dps)` and `latent-dps` differ in the start only."""

from collections.abc import Sequence
from dataclasses import dataclass

from flashdiffusion.errors import InputError, unknown_name
from flashdiffusion.priors import DistilledDecoder, IdentityAutoencoder, LatentPrior
from flashdiffusion.regression import Regressor
from flashdiffusion.severity import SeverityEncoder
from flashdiffusion.solvers import (
    GMLDPS,
    PSLD,
    DDIMInversion,
    EncodedEstimate,
    Fixed,
    FromNoise,
    Gradient,
    LatentDPS,
    RegressedEstimate,
    ReSample,
    SNRMatch,
    Solver,
    StartRule,
    Transition,
)

SAVINGS = ("guide_every", "jacobian", "distilled")
# Names, with the fields of `Settings` that each uses beside the time grid's, see `settings_of`.
# "prior" is the unconditional sampler; "dps" is Latent-DPS where latents are pixels.
SOLVERS: dict[str, frozenset[str]] = {
    "latent-dps": frozenset({"eta", *SAVINGS}),
    "gml-dps": frozenset({"eta", "omega", *SAVINGS}),
    "psld": frozenset({"eta", "omega", *SAVINGS}),
    "resample": frozenset({"gamma", "proximal"}),
    "dps": frozenset({"eta", "guide_every", "jacobian"}),
    "prior": frozenset(),
}
STARTS: dict[str, frozenset[str]] = {
    "flash": frozenset({"correction", "mixing"}),
    "inversion": frozenset(),
    "noise": frozenset(),
    "ccdf": frozenset({"start_step"}),
    "estimate": frozenset(),
    "regression": frozenset(),
}
_NO_STEPS = {"estimate", "regression"}
_GRID = frozenset({"steps", "delta"})
_ALONE = {"ae": ("estimate", "prior"), "swinir": ("regression", "prior")}
_WRAPPERS = ("flash", "inversion", "ccdf")
METHODS = (
    *_ALONE,
    *(solver for solver in SOLVERS if solver != "prior"),
    # A severity is one of latents: there is no flash(dps).
    *(f"{start}({solver})" for start in _WRAPPERS for solver in SOLVERS if solver != "dps" or start == "ccdf"),
)
_ALIASES = {"flash": "flash(latent-dps)"}


@dataclass(frozen=True)
class Settings:
    """Hyperparameters of a method; each is checked by the solver or start rule it goes to, others leave it alone.

    eta: η >= 0, step size of the data consistency. omega: ω >= 0, weight of GML-DPS' and PSLD's second term. gamma:
    γ >= 0, resampling variance of ReSample. proximal: λ >= 0, weight of its proximal term. correction: c >= 0, noise
    correction of a Flash start. mixing: "paper" or "consistent", see `SNRMatch`. start_step: N' of a fixed start
    (CCDF), counted on the full schedule. steps: length of the time grid, 1 to N; None for all N (DDPM's 1000).
    delta: δ in [0, 1], stochasticity of a step. guide_every, jacobian, distilled: savings in the gradient.
    """

    eta: float = 1.0
    omega: float = 0.05
    gamma: float = 200.0
    proximal: float = 0.0
    correction: float = 1.2
    mixing: str = "paper"
    start_step: int = 100
    steps: int | None = None
    delta: float = 1.0
    guide_every: int = 1
    jacobian: bool = True
    distilled: str = "off"


def settings_of(start: str, solver: str) -> frozenset[str]:
    """Names of the `Settings` that the result of a start and a solver depends on.

    Raises:
        InputError: unknown start or solver.
    """
    if solver not in SOLVERS:
        raise unknown_name("solver", solver, SOLVERS)
    if start not in STARTS:
        raise unknown_name("start", start, STARTS)
    return frozenset() if start in _NO_STEPS else SOLVERS[solver] | STARTS[start] | _GRID


def make_solver(name: str, prior: LatentPrior, settings: Settings, distilled: DistilledDecoder | None = None) -> Solver:
    """The solver of that name.

    Args:
        distilled: the model's distilled decoder, if it has one.

    Raises:
        InputError: unknown name, a setting out of range, a solver of the other space than the prior, or no distilled
            decoder for settings that want it.
    """
    if name not in SOLVERS:
        raise unknown_name("solver", name, SOLVERS)
    pixels = isinstance(prior.autoencoder, IdentityAutoencoder)
    if pixels and name not in {"dps", "prior"}:
        raise InputError(f"{name} works on latents and this model on pixels; take dps or ccdf(dps)")
    if name == "dps" and not pixels:
        raise InputError("dps works on pixels and this model has an autoencoder; take latent-dps, or a pixel model")
    transition = Transition(prior.schedule.grid(settings.steps), settings.delta)
    if name == "resample":
        return ReSample(prior, transition, settings.gamma, settings.proximal)
    if name == "prior":
        return LatentDPS(prior, transition, 0.0)
    part = settings.distilled if "distilled" in SOLVERS[name] else "off"
    gradient = Gradient(settings.guide_every, settings.jacobian, part, distilled)
    if name == "gml-dps":
        return GMLDPS(prior, transition, settings.eta, settings.omega, gradient=gradient)
    if name == "psld":
        return PSLD(prior, transition, settings.eta, settings.omega, gradient=gradient)
    return LatentDPS(prior, transition, settings.eta, gradient=gradient)


def make_start(
    name: str, encoder: SeverityEncoder | None, settings: Settings, regressor: Regressor | None = None
) -> StartRule:
    """The start rule of that name.

    "flash": SNR match of the severity encoder's ẑ. "inversion": the same by DDIM inversion. "noise": pure noise, all
    steps. "ccdf": N' steps from the regressor's estimate, or from ẑ if there is no regressor. "estimate": ẑ, no steps.
    "regression": the regressor's estimate, no steps.

    Raises:
        InputError: unknown name, a setting out of range, or no network for a rule that needs one.
    """
    if name not in STARTS:
        raise unknown_name("start", name, STARTS)
    if name == "noise":
        return FromNoise()
    if name == "regression" and regressor is None:
        raise InputError("this model has no regressor; train one with `flashdiffusion train regressor`")
    if name in {"ccdf", "regression"} and regressor is not None:
        return Fixed(settings.start_step if name == "ccdf" else 0, RegressedEstimate(regressor))
    if encoder is None and name == "ccdf":
        raise InputError("ccdf starts from a regressor's or severity encoder's estimate, and this model has neither")
    if encoder is None:
        raise InputError(
            f"start {name!r} needs a severity encoder and this model has none; start from noise, or train one with "
            "`flashdiffusion train severity` (models of pixels have none: take dps or ccdf(dps))"
        )
    if name == "ccdf":
        return Fixed(settings.start_step, EncodedEstimate(encoder))
    if name == "estimate":
        return Fixed(0, EncodedEstimate(encoder))
    if name == "inversion":
        return DDIMInversion(encoder)
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
    if name in _ALONE:
        return _ALONE[name]
    start, parenthesis, solver = name.rstrip(")").partition("(")
    return (start, solver) if parenthesis else ("noise", name)


def method_name(start: str, solver: str) -> str:
    """The inverse of `parse_method`."""
    alone = {pair: name for name, pair in _ALONE.items()}
    if (start, solver) in alone:
        return alone[start, solver]
    return solver if start == "noise" else f"{start}({solver})"
