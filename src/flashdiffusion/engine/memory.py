"""Memory: what is free, and what a call needs."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import psutil
import torch
from torch import Tensor


def release() -> None:
    """Give back what torch keeps of freed memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def free_bytes(device: torch.device) -> int:
    """Memory that tensors on `device` can still take."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return min([int(psutil.virtual_memory().available), *_left_of_container()])


# Limit, use and details of the control group that a container runs in: version 2, then version 1.
_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


def _left_of_container() -> Iterator[int]:
    """Bytes below the memory limit of this container, if it has one; cached files give way, and count as free."""
    for limit, used, details in _GROUPS:
        try:
            stat = dict(line.split() for line in Path(details).read_text().splitlines())
            cached = int(stat.get("inactive_file", stat.get("total_inactive_file", 0)))
            yield max(0, int(Path(limit).read_text()) - int(Path(used).read_text()) + cached)
        except (OSError, ValueError):  # no such group, or its limit is "max"
            continue


class KeptMemory:
    """Counts what autograd keeps of what runs inside, parameters aside: nearly all of the memory that it needs."""

    def __init__(self) -> None:
        self._kept: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def __enter__(self) -> Self:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> Tensor:
        if not isinstance(tensor if tensor._base is None else tensor._base, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            self._kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def bytes(self) -> int:
        """What was kept."""
        return sum(self._kept.values())
