"""The next item is made while the current one is used."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")


def prefetched(items: Iterable[Item]) -> Iterator[Item]:
    """The same items, each made by a thread while the one before it is used; never more than one ahead."""
    end: Any = object()
    iterator = iter(items)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as executor:
        pending = executor.submit(next, iterator, end)
        while (item := pending.result()) is not end:
            pending = executor.submit(next, iterator, end)
            yield item
