"""The service under load: is a request lost, or wrong, does memory grow, and what is gained by sharing steps?

python benchmarks/service.py --data DATA --out FILE [--requests 300] [--concurrent 16] [--alone 60] [--size 96]

DATA is a folder of images, of which crops are degraded. A service of its own is started (`flashdiffusion serve`); the
requests are mixed: sizes, degradations, methods, seeds, and one in ten that is to be refused.

seconds    of some of them (--alone), one at a time and so many at a time (--concurrent), in turn, each twice; the first
           of each kind came before, as it measures memory and arithmetic
together   all requests against the same made alone: what is lost, refusals that are wrong, the largest difference of a
           value in levels of 255, and the share of values that differ at all
memory     resident memory of the service: before, after those made alone, and after each tenth of the others
signal     the same again, as jobs and direct requests in turn, with SIGTERM when half of them are done: what became of
           each
"""

import argparse
import io
import itertools
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil
import torch
from PIL import Image

from flashdiffusion.client import Client, ServiceError
from flashdiffusion.data import ImageDataset, write_json
from flashdiffusion.data.images import to_pil
from flashdiffusion.jobs.records import made_by
from flashdiffusion.physics import JPEG, Compose, GaussianBlur

PARTS = 10  # of the requests, after each of which memory is looked at
# Each kind: what damaged the picture, the options, and how its size compares with the others'.
KINDS: list[tuple[str, dict[str, Any], float]] = [
    ("blur", {"physics": "gaussian-blur:std=1.5", "noise_std": 0.02}, 1.0),
    ("jpeg", {"physics": "gaussian-blur:std=1+jpeg:quality=75", "noise_std": 0.02}, 1.0),
    ("fast", {"physics": "gaussian-blur:std=1.5", "noise_std": 0.02, "quality": "fast"}, 1.5),
    ("noise", {"physics": "denoising", "noise_std": "auto", "method": "denoise"}, 1.0),
    ("look", {"physics": "gaussian-blur:std=1.5", "noise_std": 0.02, "method": "ae"}, 0.75),
]


@dataclass(frozen=True)
class Request:
    """One of the mix: a picture as PNG, and its options; refused is whether it is to be."""

    picture: bytes
    options: dict[str, Any]
    refused: bool = False


def mix(data: str, count: int, size: int) -> list[Request]:
    """Requests of all kinds in turn; one in ten cannot be used."""
    images = ImageDataset([data], 2 * size, None, 0)
    found = []
    for n, (name, options, scale) in zip(range(count), itertools.cycle(KINDS)):
        side = round(size * scale)
        [whole] = images.attempt([n % len(images)])
        if not isinstance(whole, torch.Tensor):
            raise whole
        x = whole[None, :, :side, :side].float() / 255
        physics: Any = GaussianBlur(1.0, 0.02) if name != "jpeg" else Compose(GaussianBlur(1.0), JPEG(75, 0.02))
        stream = io.BytesIO()
        to_pil(physics(x, torch.Generator().manual_seed(n))[0]).save(stream, "PNG")
        picture = stream.getvalue()
        if n % 10 == 7:
            found.append(Request(picture[: len(picture) // 2], options, True))
        else:
            found.append(Request(picture, options | {"seed": n // 50}))
    return found


class Service:
    """A service in a process of its own, at a port that is free."""

    def __init__(self, more: Iterable[str]) -> None:
        command = [sys.executable, "-m", "flashdiffusion", "serve", "--port", "0", *more]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        lines = iter(self.process.stderr.readline, "")
        found = next(match for line in lines if (match := re.search(r"on (http://\S+);", line)))
        self.url = found[1]
        self.said: list[str] = []
        threading.Thread(target=lambda: self.said.extend(lines), daemon=True).start()

    @property
    def resident(self) -> float:
        """MiB of its memory."""
        return psutil.Process(self.process.pid).memory_info().rss / 2**20

    def stop(self) -> int:
        """End it; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


def ask(client: Client, one: Request) -> bytes | int:
    """The restored picture, or the status of a refusal."""
    try:
        return client.restore(one.picture, **one.options).images[0]
    except ServiceError as error:
        return error.status


def together(client: Client, requests: list[Request], concurrent: int) -> list[bytes | int]:
    """All of them, so many at a time."""
    with ThreadPoolExecutor(concurrent) as pool:
        return [*pool.map(lambda one: ask(client, one), requests)]


def compared(requests: list[Request], expected: list[bytes | int], found: list[bytes | int]) -> dict[str, Any]:
    """How answers compare with those of requests made alone."""
    lost = wrong = pixels = differing = 0
    largest = 0
    for request, one, other in zip(requests, expected, found, strict=True):
        if request.refused:
            wrong += other != 422
        elif not isinstance(one, bytes) or not isinstance(other, bytes):
            lost += 1
        else:
            difference = np.abs(pixels_of(one) - pixels_of(other))
            largest = max(largest, int(difference.max()))
            pixels, differing = pixels + difference.size, differing + int((difference > 0).sum())
    return {
        "lost": lost,
        "wrong_refusals": wrong,
        "largest_difference": largest,
        "values_that_differ": differing / pixels,
    }


def pixels_of(png: bytes) -> np.ndarray:
    """Values of a picture, 0 to 255."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image).astype(int)


def interrupted(service: Service, requests: list[Request], concurrent: int) -> dict[str, Any]:
    """SIGTERM while requests come: what became of each."""
    ended, lock, sent = Counter[str](), threading.Lock(), threading.Event()

    def one(n: int) -> str:
        request = requests[n]
        try:
            if n % 2:
                client.restore(request.picture, **request.options)
                return "answered"
            job = client.submit(request.picture, **request.options)
        except ServiceError as error:
            return "refused: shutting down" if error.status == 503 else f"status {error.status}"
        except httpx2.ConnectError:
            return "refused: not listening"
        except httpx2.HTTPError as error:
            return f"lost: {type(error).__name__}"
        try:
            job.result()
            return "answered"
        except (ServiceError, httpx2.HTTPError) as error:
            return f"lost: {type(error).__name__}"

    def run(n: int) -> None:
        found = one(n)
        with lock:
            ended[found] += 1
            if ended.total() == len(requests) // 2:
                service.process.send_signal(signal.SIGTERM)
                sent.set()

    with Client(service.url, retries=0) as client, ThreadPoolExecutor(concurrent) as pool:
        list(pool.map(run, [n for n, request in enumerate(requests) if not request.refused]))
    assert sent.is_set()
    return {"ended": dict(sorted(ended.items())), "exit_code": service.process.wait(120)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of images or .tar shard")
    parser.add_argument("--model", help="model; default: that of the command")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--concurrent", type=int, default=16)
    parser.add_argument("--alone", type=int, default=60)
    parser.add_argument("--size", type=int, default=96, help="side of most pictures, in pixels")
    parser.add_argument("--out", type=Path, required=True, help="figures (JSON)")
    given = parser.parse_args()
    requests = mix(given.data, given.requests, given.size)
    more = [] if given.model is None else ["--model", given.model]
    service = Service(more)
    kinds = len(KINDS)
    with Client(service.url) as client:
        memory = [service.resident]
        together(client, requests[:kinds], 1)
        # In turn, so that what else the machine does weighs on both alike.
        few = [one for one in requests[kinds:] if not one.refused][: given.alone]
        seconds: dict[str, list[float]] = {"alone": [], "together": []}
        for _ in range(2):
            for name, count in (("alone", 1), ("together", given.concurrent)):
                began = time.perf_counter()
                together(client, few, count)
                seconds[name].append(time.perf_counter() - began)
                print(name, f"{seconds[name][-1]:.1f} s", flush=True)
        expected = together(client, requests, 1)
        memory.append(service.resident)
        found: list[bytes | int] = []
        for part in _parts(requests):
            found += together(client, part, given.concurrent)
            memory.append(service.resident)
        result = compared(requests, expected, found)
        print(result, flush=True)
    stopped = interrupted(service, requests, given.concurrent)
    print(stopped, flush=True)
    about = {key: str(value) for key, value in vars(given).items() if key not in {"data", "out", "model"}}
    ratio = sum(seconds["alone"]) / sum(seconds["together"])
    figures = {
        "seconds_of_the_first": {"requests": len(few), **{k: [round(s, 2) for s in v] for k, v in seconds.items()}},
        "throughput_against_one_at_a_time": round(ratio, 3),
        "together": result,
        "memory_mib": [round(value, 1) for value in memory],
        "signal": stopped,
        "stderr": [line.strip() for line in service.said],
    }
    write_json(given.out, made_by(torch.device("cpu"), about) | figures)
    print(json.dumps(figures, indent=1))


def _parts(requests: list[Request]) -> list[list[Request]]:
    size = -(-len(requests) // PARTS)
    return [requests[first : first + size] for first in range(0, len(requests), size)]


if __name__ == "__main__":
    main()
