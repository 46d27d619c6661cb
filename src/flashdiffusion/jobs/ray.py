"""A job on the workers of a Ray cluster, or of this machine: Ray Data deals out items, retries and brings results."""

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from flashdiffusion.errors import InputError, brief
from flashdiffusion.jobs.job import Item, Job
from flashdiffusion.plugins import LOADED, load_plugins

BATCH = 64  # items that a worker is given together, at most
HERE = "local"  # address of a cluster that is made of this machine


def run_on_ray(
    job: Job,
    items: Sequence[Item],
    workers: int | None = None,
    address: str | None = None,
    cpus: int | None = None,
    gpus: float | None = None,
) -> Iterator[Item]:
    """Do the items in worker processes that each hold the job's model; each is given as soon as its batch is done.

    Items of a worker that is killed are given to another one. A cluster that this call starts ends with it.

    Args:
        workers: by default one per GPU, or per CPU where there is none.
        address: of a running cluster; None for RAY_ADDRESS if that is set, else for workers on this machine.
        cpus, gpus: of each worker; by default its share of what there is.

    Raises:
        InputError: no Ray, no such cluster, workers < 1, options that no image can use: at once, not when the first
            result is asked for.
    """
    try:
        import ray.data  # noqa: F401  # whether it is there
    except ImportError as error:
        raise InputError("engine ray needs Ray: pip install 'flashdiffusion[ray]'") from error
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}; expected at least 1")
    return _run(job, items, workers, address, cpus, gpus)


def _run(
    job: Job, items: Sequence[Item], workers: int | None, address: str | None, cpus: int | None, gpus: float | None
) -> Iterator[Item]:
    import ray

    with _cluster(address, workers):
        share = _share([node for node in ray.nodes() if node["Alive"]], workers, len(items), cpus, gpus)
        seen: set[int] = set()  # a batch whose worker is killed while it is delivered could come again
        try:
            for batch in _dataset(job, items, *share).iter_batches(batch_size=None):
                for done in batch["item"]:
                    if done.index not in seen:
                        seen.add(done.index)
                        yield done
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]  # of a traceback
            raise InputError(f"a Ray worker failed: {reason}") from error


def _dataset(job: Job, items: Sequence[Item], workers: int, cpus: int, gpus: float) -> Any:
    import ray

    # Half of a worker's share: at the end a slow worker holds the others up for half of its time at most.
    size = max(1, min(BATCH, -(-len(items) // (2 * workers))))
    blocks = -(-len(items) // size)
    return ray.data.from_items([*items], override_num_blocks=blocks).map_batches(
        _Actor,
        fn_constructor_args=(job, cpus, str(Path.cwd()), [*LOADED.values()]),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=cpus,
        num_gpus=gpus,
        batch_size=size,
    )


class _Actor:
    """A worker process: opens the job once, then does batches of items."""

    def __init__(self, job: Job, threads: int, folder: str, plugins: list[str]) -> None:
        import torch

        torch.set_num_threads(threads)
        if Path(folder).is_dir():
            os.chdir(folder)  # file names on the command line are relative to where it was typed
        load_plugins(plugins)
        self.worker = job.open()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"item": np.array([*self.worker(batch["item"])], dtype=object)}


def _share(
    nodes: list[dict[str, Any]], workers: int | None, items: int, cpus: int | None, gpus: float | None
) -> tuple[int, int, float]:
    """How many workers, and CPUs and GPUs of each, so that all of them find a place on the nodes."""
    held = [(int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0))) for node in nodes]
    devices = 0 if gpus == 0 else sum(own for _, own in held)
    if devices:
        held = [(cores, own) for cores, own in held if own]
    count = workers or devices or max(1, sum(cores for cores, _ in held))
    count = max(1, min(count, items))
    if gpus is None:
        each = -(-count // devices) if devices else 0  # workers on one GPU
        gpus = int(1000 / each) / 1000 if each else 0.0

    def places(cpus: int) -> int:
        return sum(min(cores // cpus, int(own / gpus) if gpus else cores) for cores, own in held)

    if cpus is None:
        most = max((cores for cores, _ in held), default=1)
        cpus = next((c for c in range(most, 1, -1) if places(c) >= count), 1)
    return count, cpus, gpus


def address_of(given: str | None) -> str:
    """The address of a cluster: as given, else RAY_ADDRESS, else `HERE`."""
    return given or os.environ.get("RAY_ADDRESS") or HERE


@contextmanager
def _cluster(address: str | None, workers: int | None) -> Iterator[None]:
    """Connected to a cluster: one that this process knows already, the one at `address`, or one of its own."""
    import ray

    if ray.is_initialized():
        yield
        return
    address = address_of(address)
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if address == HERE:
        options |= {"include_dashboard": False, "num_cpus": max(os.cpu_count() or 1, workers or 1)}
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        _reach(address)
        with _silent():
            ray.init(**options)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"no Ray cluster at {address}: {brief(error)}; expected e.g. auto or HOST:6379") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raise OSError unless something listens at HOST:PORT; Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing on stderr, not even by C++, which announces there that it will be quiet."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


# Ray's own reports, of which none is for who restores images.
_QUIET = {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_USAGE_STATS_ENABLED": "0"}
