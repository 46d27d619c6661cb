"""Arithmetic of a call, by the formulas of torch's own counter."""

from collections.abc import Callable
from threading import Lock
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class _Eager:
    """What is compiled runs as it was written while anybody is in; torch's own switch is one for all threads."""

    def __init__(self) -> None:
        self._lock, self._inside = Lock(), 0

    def enter(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._stance = torch.compiler.set_stance("force_eager")
                self._stance.__enter__()

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._stance.__exit__(None, None, None)


_EAGER = _Eager()


class FlopCounter(TorchDispatchMode):
    """Counts matrix products and convolutions of what runs inside, backward passes included.

    A multiply-add is 2 FLOP. Attention counts where torch's formulas know the kernel: not on CPUs, where it is below
    1 % here. What is compiled runs as it was written meanwhile: compiled code shows no operators. Unlike torch's
    `FlopCounterMode` it hooks no modules, so that threads can count beside each other.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flop = 0

    @property
    def gflop(self) -> float:
        """The count in GFLOP."""
        return self.flop / 1e9

    def __enter__(self) -> Self:
        _EAGER.enter()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        _EAGER.leave()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet not in flop_registry and func is not torch.ops.prim.device.default:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:  # torch's word for an operator that is not made of others
                return parts
        out = func(*args, **kwargs)
        if packet in flop_registry:
            self.flop += flop_registry[packet](*args, **kwargs, out_val=out)
        return out


def count_gflop(call: Callable[[], object]) -> float:
    """Count the GFLOP of one call, see `FlopCounter`."""
    with FlopCounter() as counter:
        call()
    return counter.gflop
