"""Arithmetic of a call, by torch's own counter."""

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode


def count_gflop(call: Callable[[], object]) -> float:
    """GFLOP of matrix products and convolutions in one call, backward included (2 FLOP per multiply-add).

    Attention counts where torch's counter knows the kernel: not on CPUs, where it is below 1 % here.
    """
    # What is compiled is counted as it was written: the counter sees no operator of compiled code.
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9
