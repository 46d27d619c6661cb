"""Measured claims: each function is one experiment and returns records that a command writes as JSON."""

from flashdiffusion.experiments.evaluate import Evaluated, evaluate
from flashdiffusion.experiments.ordering import measure_ordering
from flashdiffusion.experiments.records import Record, environment, report, summarise

__all__ = ["Evaluated", "Record", "environment", "evaluate", "measure_ordering", "report", "summarise"]
