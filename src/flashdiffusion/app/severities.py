"""Where a severity stands among those of a data set, from a record of its percentiles."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np


@dataclass(frozen=True)
class Scale:
    """Predicted severities of a task's images.

    about: the data in words. images: how many. noise_std: σ_y that they were measured with. percentiles: severities at
    evenly spaced ranks from 0 to 100, rising.
    """

    task: str
    about: str
    images: int
    noise_std: float
    percentiles: tuple[float, ...]

    def at(self, rank: float) -> float:
        """The severity at a rank from 0 to 100."""
        return float(np.interp(rank, self._ranks, self.percentiles))

    def rank(self, severity: float) -> float:
        """How many of the images, in percent, are less damaged."""
        return float(np.interp(severity, self.percentiles, self._ranks, left=0, right=100))

    @property
    def _ranks(self) -> np.ndarray:
        return np.linspace(0, 100, len(self.percentiles))


@cache
def scales(model: str) -> dict[str, Scale]:
    """The scales of a model by task, as `benchmarks/severity_scale.py` recorded them; none if it did not."""
    file = files("flashdiffusion") / "assets" / "app" / f"severities-{model}.json"
    if not file.is_file():
        return {}
    record = json.loads(file.read_text())
    return {
        task: Scale(task, record["about"], one["images"], one["noise_std"], tuple(one["percentiles"]))
        for task, one in record["tasks"].items()
    }
