"""What is known of one image, as results files have it. Without torch, so that any process can hold one."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from flashdiffusion.errors import InputError

# Fields of a record that are no figures.
NO_FIGURES = frozenset({"id", "degradation", "physics_corrected", "missing", "file", "digest", "tiles"})


@dataclass(frozen=True)
class Record:
    """What is known of one image; None where it is not.

    noise_std: σ_y, if it was estimated from the image. start_step: time of its start on the full schedule, so that
    runs on two grids compare. measurement_psnr: of the measurement, before restoration. physics_corrected: see
    `Restored`; False is not written. metrics: figures of quality by metric; in JSON each stands beside the other
    fields. missing: why a metric has no figure. file: where it came from. digest: of what was read for it, see
    `jobs.inputs`. tiles: what is known of each, if the image was restored in tiles, see `TileMap.plain`.
    """

    id: str
    degradation: dict[str, Any] | None = None
    noise_std: float | None = None
    severity: float | None = None
    true_severity: float | None = None
    start_step: int | None = None
    nfe: float | None = None
    gflop: float | None = None
    seconds: float | None = None
    measurement_psnr: float | None = None
    physics_corrected: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)
    missing: Mapping[str, str] | None = None
    file: str | None = None
    digest: str | None = None
    tiles: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Fields that are known, rounded to six significant digits; null where a number is not finite."""
        row = asdict(self)
        quality = row.pop("metrics")
        last = {key: row.pop(key) for key in ("missing", "file", "digest", "tiles")}
        row["physics_corrected"] = row["physics_corrected"] or None
        return {key: plain(value) for key, value in (row | quality | last).items() if value is not None}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Record":
        """The inverse of `to_json`, but for what was rounded: a number that was not finite is NaN.

        Raises:
            InputError: fields that a record has not.
        """
        values: dict[str, Any] = {key: math.nan if value is None else value for key, value in row.items()}
        own = {field.name for field in fields(cls)} - {"metrics"}
        quality = {key: values.pop(key) for key in row if key not in own}
        if "id" not in values or not all(isinstance(value, (int, float)) for value in quality.values()):
            known = ", ".join(sorted(own))
            raise InputError(f"a record with the fields {', '.join(row)}; expected an id, of {known}, and metrics")
        return cls(**values, metrics=quality)


def plain(value: Any) -> Any:
    """A number as JSON can hold it: six significant digits, None for NaN and infinities."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
