"""Measured claims: each function is one experiment and returns records that a command writes as JSON."""

from flashdiffusion.experiments.calibration import measure_calibration
from flashdiffusion.experiments.mining import measure_severities
from flashdiffusion.experiments.ordering import measure_ordering

__all__ = ["measure_calibration", "measure_ordering", "measure_severities"]
