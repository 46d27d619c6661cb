"""A job in this process."""

from collections.abc import Iterable, Iterator

from flashdiffusion.jobs.job import Item, Job


def run_local(job: Job, items: Iterable[Item]) -> Iterator[Item]:
    """Do the items; each is given as soon as it is done.

    Raises:
        InputError: options that no image can use; at once, not when the first result is asked for.
    """
    worker = job.open()
    return worker(items)
