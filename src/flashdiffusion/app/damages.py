"""What can be wrong with a picture, in the page's words and in the command line's."""

from dataclasses import dataclass

FACES, PHOTOGRAPHS = "faces-128", "photos"
MASK = "mask.png"  # of the parts that are missing: white where the picture is kept


@dataclass(frozen=True)
class Strength:
    """A number that a slider sets: what it is, its range, and where it stands at first."""

    label: str
    low: float
    high: float
    step: float
    usual: float


@dataclass(frozen=True)
class Damage:
    """A kind of damage.

    text: of `--physics`, with a place for each strength. task: that draws the like of it, for the scale of severities.
    models: whose severity encoder knows it. drawn: whether it draws at random what one must know to restore, so that it
    can be done to a picture, and not be told of one. noise_std: usual σ_y where it is done to a picture. told: σ_y
    where it is told of one, None for an estimate.
    """

    name: str
    label: str
    text: str
    task: str
    models: tuple[str, ...]
    strengths: tuple[Strength, ...] = ()
    drawn: bool = False
    noise_std: float = 0.02
    told: float | None = None

    @property
    def masked(self) -> bool:
        """Whether its place is drawn on the picture."""
        return "mask=" in self.text

    def physics(self, strengths: tuple[float, ...]) -> str:
        """As `--physics` takes it."""
        return self.text.format(*(f"{value:g}" for value in strengths))


_BOTH = (FACES, PHOTOGRAPHS)
_ALONE = (PHOTOGRAPHS,)
DAMAGES = {
    one.name: one
    for one in (
        Damage(
            "blur",
            "Blur",
            "gaussian-blur:std={}",
            "gaussian-blur",
            _BOTH,
            (Strength("Blur: standard deviation in pixels", 0.5, 4, 0.1, 2),),
        ),
        Damage(
            "lost",
            "Pixels lost at random",
            "random-inpainting:ratio={}",
            "random-inpainting",
            _BOTH,
            (Strength("Share of the pixels that is lost", 0.1, 0.95, 0.05, 0.75),),
            drawn=True,
        ),
        Damage(
            "holes",
            "Missing parts, which you draw",
            f"random-inpainting:mask={MASK}",
            "scribble",
            _BOTH,
            told=0.0,
        ),
        Damage("noise", "Noise alone", "denoising", "denoising", _BOTH, noise_std=0.1),
        Damage(
            "small",
            "Too few pixels: enlarge it",
            "super-resolution:factor={}",
            "super-resolution-2",
            _ALONE,
            (Strength("How many times as wide", 2, 4, 1, 2),),
            told=0.01,
        ),
        Damage(
            "jpeg",
            "JPEG compression",
            "jpeg:quality={}",
            "jpeg",
            _ALONE,
            (Strength("JPEG quality", 5, 95, 5, 20),),
            noise_std=0.01,
            told=0.01,
        ),
        Damage(
            "defocus",
            "Out of focus",
            "defocus:radius={}",
            "defocus",
            _ALONE,
            (Strength("Radius of the blurred disc in pixels", 0.5, 5, 0.25, 2),),
        ),
        Damage(
            "motion",
            "Moved camera, along a line",
            "motion-blur:length={},angle={}",
            "motion-blur",
            _ALONE,
            (Strength("Length of the path in pixels", 2, 15, 1, 7), Strength("Its angle in degrees", 0, 175, 5, 0)),
        ),
        Damage(
            "shake",
            "Camera shake",
            "nonlinear-blur:std={}",
            "nonlinear-blur",
            (FACES,),
            (Strength("Size of the random path in pixels", 0.5, 3, 0.1, 2),),
            drawn=True,
        ),
    )
}


def damages_for(model: str, damaged: bool) -> list[Damage]:
    """Kinds that a model knows; with `damaged` those that can be told of a picture."""
    return [one for one in DAMAGES.values() if model in one.models and not (damaged and one.drawn)]
