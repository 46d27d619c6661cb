"""Arithmetic of a call, by torch's own counter."""

from collections.abc import Callable

from torch.utils.flop_counter import FlopCounterMode


def count_gflop(call: Callable[[], object]) -> float:
    """GFLOP of matrix products and convolutions in one call, backward included (2 FLOP per multiply-add).

    Attention counts where torch's counter knows the kernel: not on CPUs, where it is below 1 % here.
    """
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9
