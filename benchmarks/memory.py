"""Peak memory of a block, above what was held before it."""

import threading
from types import TracebackType
from typing import Self

import psutil
import torch

INTERVAL = 0.02  # seconds between two looks at a process


class Peak:
    """`with Peak(device) as peak: ...; peak.mib`: of torch's allocator on a GPU, of the process on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.mib = device, 0.0

    def __enter__(self) -> Self:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
            return self
        self._process = psutil.Process()
        self._before = self._highest = self._process.memory_info().rss
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL):
            self._highest = max(self._highest, self._process.memory_info().rss)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.type == "cuda":
            highest = torch.cuda.max_memory_allocated(self.device)
        else:
            self._done.set()
            self._thread.join()
            highest = self._highest
        self.mib = (highest - self._before) / 2**20
