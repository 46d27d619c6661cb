"""Iterators that read ahead, map in threads and split into chunks."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

BEHIND = 16  # items per thread that may wait for their results


def prefetched(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items, making the next one in a thread while the current one is used."""
    return (item for item in polled(items, lambda: True) if item is not None)


def polled(items: Iterable[Item], wait: Callable[[], bool]) -> Iterator[Item | None]:
    """Yield the items as `prefetched` does; None in place of one that is not there yet, unless `wait()` is true."""
    end: Any = object()
    iterator = iter(items)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as executor:
        pending = executor.submit(next, iterator, end)
        while True:
            if not (pending.done() or wait()):
                yield None
                continue
            if (item := pending.result()) is end:
                return
            pending = executor.submit(next, iterator, end)
            yield item


def mapped(call: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Map `call` over the items in order, in threads that work while later items are made; 0: in this thread.

    An error or interrupt while an item is made comes after the results of those before it.
    """
    if threads == 0:
        yield from map(call, items)
        return
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, "mapped") as executor:
        try:
            for item in items:
                pending.append(executor.submit(call, item))
                while pending and (pending[0].done() or len(pending) > BEHIND * threads):
                    yield pending.popleft().result()
        except GeneratorExit:
            raise
        except BaseException:  # an interrupt too: what is done is not lost
            yield from (one.result() for one in pending)
            raise
        yield from (one.result() for one in pending)


def in_chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in lists of `size`; the last list may be shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
