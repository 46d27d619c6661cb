"""What a model is, in a few lines."""

from flashdiffusion.errors import sized
from flashdiffusion.methods import method_name
from flashdiffusion.model import Model
from flashdiffusion.priors.latent import LEAST_SIDE
from flashdiffusion.severity import SeverityEncoder


def described(model: Model) -> str:
    """Say in a few lines where a model comes from, what images it takes, and how it restores them by default."""
    prior, encoder = model.prior, model.severity_encoder
    factor, side = prior.autoencoder.factor, model.sample_size
    start = "noise" if encoder is None else "flash"
    own = "" if side is None else f"trained on {sized(side, side)}; "
    lines = {
        "images": f"{own}any from {min(LEAST_SIDE, prior.unit)} pixels a side, padded to multiples of {prior.unit}",
        "latents": f"{prior.autoencoder.channels} x H/{factor} x W/{factor} for images of H x W",
        "severity": "no encoder: images start from noise" if encoder is None else _told(encoder),
        "method": f"{method_name(start, model.solver_for(start, ()))} by default",
        "runs on": f"{model.device}, {str(prior.dtype).removeprefix('torch.')}",
    }
    title = f"{type(model).__name__}({model.source or ''})"
    return "\n".join([title, *(f"  {name:<8}  {text}" for name, text in lines.items())])


def _told(encoder: SeverityEncoder) -> str:
    """What the encoder makes use of beside the image."""
    if not isinstance(encoder, SeverityEncoder):
        return "measured by the physics on a few pictures"
    kinds = encoder.config.conditions
    if kinds is None:
        return "goes by the image alone"
    return f"can be told noise, lost pixels{''.join(f', {kind}' for kind in kinds)}"
