"""Hyperparameters by task and method: tuned for the embedded model, and the published ones for 256x256 images."""

from dataclasses import dataclass

from flashdiffusion.errors import InputError
from flashdiffusion.methods import Settings, method_name
from flashdiffusion.types import Physics


@dataclass(frozen=True)
class Preset:
    """Tuned settings, beside what they reached: means over the validation images of the tuning run."""

    settings: Settings
    psnr: float | None = None
    lpips: float | None = None
    nfe: float | None = None


# (task, method, length of the time grid) -> what `flashdiffusion tune` found for the embedded model, by the searches of
# benchmarks/tune.py. None is the method's own grid: all steps, 500 for ReSample. Flash's steps are few in any case.
PRESETS: dict[tuple[str, str, int | None], Preset] = {
    ("gaussian-blur", "ccdf(latent-dps)", None): Preset(Settings(eta=8.0, start_step=30), 28.61, 0.0769, 30.0),
    ("gaussian-blur", "flash(gml-dps)", None): Preset(
        Settings(eta=8.0, omega=0.5, correction=0.0), 28.75, 0.0735, 19.2
    ),
    ("gaussian-blur", "flash(latent-dps)", None): Preset(Settings(eta=8.0, correction=0.0), 28.74, 0.0741, 19.2),
    ("gaussian-blur", "flash(psld)", None): Preset(Settings(eta=8.0, omega=0.5, correction=0.0), 28.74, 0.0738, 19.2),
    ("gaussian-blur", "flash(resample)", None): Preset(
        Settings(gamma=400.0, correction=1.0, mixing="consistent"), 28.45, 0.1040, 18.2
    ),
    ("gaussian-blur", "gml-dps", 200): Preset(Settings(eta=3.0, omega=0.5), 26.33, 0.1217, 200.0),
    ("gaussian-blur", "latent-dps", 200): Preset(Settings(eta=3.0), 12.44, 0.5892, 200.0),
    ("gaussian-blur", "resample", 200): Preset(Settings(gamma=400.0), 26.62, 0.1805, 200.0),
    ("gaussian-blur-fixed", "ccdf(latent-dps)", None): Preset(Settings(eta=8.0, start_step=30), 24.60, 0.2067, 30.0),
    ("gaussian-blur-fixed", "flash(gml-dps)", None): Preset(
        Settings(eta=8.0, omega=0.1, correction=0.5), 25.06, 0.1766, 30.0
    ),
    ("gaussian-blur-fixed", "flash(latent-dps)", None): Preset(Settings(eta=8.0, correction=0.5), 25.04, 0.1783, 30.0),
    ("gaussian-blur-fixed", "flash(psld)", None): Preset(
        Settings(eta=8.0, omega=0.1, correction=0.5), 25.06, 0.1771, 30.0
    ),
    ("gaussian-blur-fixed", "flash(resample)", None): Preset(
        Settings(gamma=400.0, correction=1.0, mixing="consistent"), 24.47, 0.2109, 27.5
    ),
    ("gaussian-blur-fixed", "latent-dps", 200): Preset(Settings(eta=3.0), 12.42, 0.6335, 200.0),
    ("nonlinear-blur", "ccdf(latent-dps)", None): Preset(Settings(eta=8.0, start_step=30), 28.37, 0.0742, 30.0),
    ("nonlinear-blur", "flash(gml-dps)", None): Preset(
        Settings(eta=8.0, omega=0.5, correction=0.5), 28.37, 0.0741, 21.5
    ),
    ("nonlinear-blur", "flash(latent-dps)", None): Preset(Settings(eta=8.0, correction=0.5), 28.39, 0.0756, 21.5),
    ("nonlinear-blur", "flash(resample)", None): Preset(
        Settings(gamma=400.0, correction=1.0, mixing="consistent"), 27.65, 0.1279, 20.0
    ),
    ("random-inpainting", "flash(gml-dps)", None): Preset(
        Settings(eta=8.0, omega=0.5, correction=0.0), 27.10, 0.0743, 53.5
    ),
    ("random-inpainting", "flash(latent-dps)", None): Preset(Settings(eta=8.0, correction=0.0), 27.04, 0.0749, 53.5),
    ("random-inpainting", "flash(psld)", None): Preset(
        Settings(eta=8.0, omega=0.5, correction=0.0), 27.05, 0.0736, 53.5
    ),
    ("random-inpainting", "flash(resample)", None): Preset(
        Settings(gamma=400.0, correction=1.0, mixing="consistent"), 25.21, 0.1966, 46.2
    ),
    # Searched in full over two images with an earlier, weaker denoiser.
    ("gaussian-blur", "latent-dps", None): Preset(Settings(eta=1)),
}
_DEFAULT_TASK = "gaussian-blur"
_LIKE_FLASH = {"inversion", "estimate", "regression"}  # starts that have no presets of their own


def preset_for(task: str | Physics, start: str, solver: str, steps: int | None = None) -> Settings:
    """Settings for a task (its name, or a physics whose `name` is one), the names of a start rule and a solver.

    What has no preset of its own takes the nearest that has: the same method and task on the method's own time grid,
    then that method on Gaussian blur, then Latent-DPS of the same start.

    Args:
        steps: length of the time grid, if it is not the method's own.
    """
    name = task if isinstance(task, str) else getattr(task, "name", _DEFAULT_TASK)
    start = "flash" if start in _LIKE_FLASH else start
    grid = Settings() if steps is None else Settings(steps=steps)
    for method in (method_name(start, solver), method_name(start, "latent-dps")):
        for known in (name, _DEFAULT_TASK):
            for length in (steps, None):
                if (known, method, length) in PRESETS:
                    return PRESETS[known, method, length].settings | grid
    return grid


PUBLISHED_IMAGES = ("FFHQ", "LSUN")
# η and c of Latent-DPS; η, ω, c of GML-DPS and of PSLD; γ, c of ReSample.
_PUBLISHED_VALUES: dict[tuple[str, str], tuple[tuple[float, ...] | None, ...]] = {
    ("gaussian-blur", "FFHQ"): ((1, 1.2), (3, 0.05, 1.2), (2, 0.2, 1.0), (400, 1.2)),
    ("gaussian-blur", "LSUN"): ((2, 1.2), (2, 0.05, 1.2), (2, 0.2, 1.0), (1000, 1.2)),
    ("gaussian-blur-fixed", "FFHQ"): ((3, 1.2), (2, 0.05, 1.0), (2, 0.1, 1.0), (2000, 1.2)),
    ("gaussian-blur-fixed", "LSUN"): ((2, 1.0), (2, 0.05, 1.0), (2, 0.1, 1.0), (200, 1.2)),
    ("nonlinear-blur", "FFHQ"): ((1, 1.0), (3, 0.05, 1.2), None, (200, 1.2)),
    ("nonlinear-blur", "LSUN"): ((2, 1.0), (2, 0.05, 1.0), None, (1000, 1.0)),
    ("random-inpainting", "FFHQ"): ((7, 1.2), (10, 0.05, 1.0), (10, 0.5, 1.0), (200, 1.2)),
    ("random-inpainting", "LSUN"): ((10, 1.2), (10, 0.05, 1.0), (10, 0.05, 1.2), (400, 1.2)),
}


def _published() -> dict[tuple[str, str, str], Settings]:
    table: dict[tuple[str, str, str], Settings] = {}
    for (task, images), (latent_dps, gml_dps, psld, resample) in _PUBLISHED_VALUES.items():
        for solver, values in (
            ("latent-dps", latent_dps),
            ("gml-dps", gml_dps),
            ("psld", psld),
            ("resample", resample),
        ):
            if values is None:
                continue
            correction = values[-1]
            if solver == "resample":
                settings = Settings(gamma=values[0], proximal=0.0, correction=correction)
            elif solver == "latent-dps":
                settings = Settings(eta=values[0], correction=correction)
            else:
                settings = Settings(eta=values[0], omega=values[1], correction=correction)
            table[task, f"flash({solver})", images] = settings
    for task, ccdf, ccdf_dps, dps in (
        ("gaussian-blur", (1, 100), (5, 20), 5),
        ("nonlinear-blur", (1.5, 200), (3, 100), 0.5),
        ("random-inpainting", (10, 100), (3, 50), 3),
    ):
        table[task, "ccdf(latent-dps)", "FFHQ"] = Settings(eta=ccdf[0], start_step=int(ccdf[1]))
        table[task, "ccdf(dps)", "FFHQ"] = Settings(eta=ccdf_dps[0], start_step=ccdf_dps[1])
        table[task, "dps", "FFHQ"] = Settings(eta=dps)
    return table


# (task, method, images) -> settings published for 256x256; a start to search from with another prior.
PUBLISHED = _published()


def published_for(task: str, start: str, solver: str, images: str) -> Settings:
    """The settings published for a method on 256x256 images of FFHQ or LSUN.

    Raises:
        InputError: there are none.
    """
    key = (task, method_name(start, solver), images)
    if key not in PUBLISHED:
        known = sorted(", ".join(key) for key in PUBLISHED if key[0] == task)
        raise InputError(f"nothing published for {', '.join(key)}; known for {task}: {'; '.join(known) or 'nothing'}")
    return PUBLISHED[key]
