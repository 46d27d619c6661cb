"""Measured claims: each function is one experiment and returns records that a command writes as JSON."""

from flashdiffusion.experiments.ordering import measure_ordering

__all__ = ["measure_ordering"]
