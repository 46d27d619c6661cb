"""Arithmetic of a call, by torch's own counter."""

from collections.abc import Callable

from torch.utils.flop_counter import FlopCounterMode


def count_gflop(call: Callable[[], object]) -> float:
    """GFLOP of matrix products, convolutions and attention in one call, backward included (2 FLOP per MAC)."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9
