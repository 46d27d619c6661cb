"""What is known of a run, as parts of the page."""

import math
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment

from flashdiffusion.app.choice import METHODS
from flashdiffusion.app.damages import FACES
from flashdiffusion.app.severities import scales
from flashdiffusion.app.told import Begun, Done

BANDS = ((0, 100), (10, 90), (25, 75))  # ranks that a band of the scale spans, from the palest to the darkest
TICKS = (10, 50, 90)
MARGIN = 1.3  # of the scale beyond what it shows, as a factor


@cache
def _environment() -> Environment:
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)


def _render(name: str, **values: Any) -> str:
    source = (files("flashdiffusion") / "assets" / "app" / f"{name}.html").read_text()
    return _environment().from_string(source).render(**values)


def status(text: str, kind: str = "", *, share: float | None = None) -> str:
    """What the page is doing, in one line. kind: "", "busy" or "error". share: of the work that is done, in [0, 1]."""
    return _render("status", text=text, kind=kind, share=share)


def severity(begun: Begun) -> str:
    """The severity on the scale of its task, and the start that was chosen."""
    value, start, steps = begun.record.severity, begun.record.start_step, begun.full
    if value is None or start is None:
        return ""
    scale = scales(begun.choice.model).get(begun.choice.kind.task)
    # Of latents that are standardised, 1 is what one knows who sees nothing; those of photographs are pixels.
    shown: dict[str, Any] = {"rank": None, "unit": begun.choice.model == FACES}
    if scale is not None:
        low = min(value, scale.at(0)) / MARGIN
        high = max(value, scale.at(100)) * MARGIN

        def place(one: float) -> float:
            return 100 * math.log(max(one, low) / low) / math.log(high / low)

        bands = [(place(scale.at(a)), place(scale.at(b))) for a, b in BANDS]
        ticks = [(rank, place(scale.at(rank)), scale.at(rank)) for rank in TICKS]
        shown |= {"rank": scale.rank(value), "scale": scale, "place": place(value), "bands": bands, "ticks": ticks}
    return _render(
        "severity", value=value, start=start, steps=steps, tiles=begun.tiles, label=begun.choice.kind.label, **shown
    )


def results(done: Done) -> str:
    """Quality and cost of each method, beside the measurement's and that of a run from noise."""
    begun, outcomes = done.begun, done.outcomes
    rows: list[dict[str, Any]] = []
    if begun.quality:
        rows.append({"name": "Before: the measurement", "quality": begun.quality})
    from_noise = {}
    for one in outcomes:
        record = one.record
        name = METHODS[begun.choice.model][one.method]
        rows.append(
            {"name": name, "quality": record.metrics, "record": record, "nfe": record.nfe, "gflop": record.gflop}
        )
        if one.noise is not None:
            from_noise[one.noise[0]] = one.noise[1]
    for solver, cost in from_noise.items():
        rows.append({"name": f"{solver} from noise, counted", "nfe": cost.nfe, "gflop": cost.gflop, "quality": {}})
    first = outcomes[0]
    saving = None
    if first.noise is not None and first.record.gflop:
        saving = first.noise[1].gflop / first.record.gflop
    return _render(
        "results",
        rows=rows,
        metrics=done.columns,
        first=first,
        saving=saving,
        known=bool(begun.quality),
        lpips="lpips" in first.record.metrics or not begun.quality,
        corrected=[one for one in outcomes if one.record.physics_corrected],
        notes=begun.notes,
        noise_std=begun.record.noise_std,
    )
