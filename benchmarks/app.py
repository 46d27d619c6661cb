"""From `flashdiffusion app` to the page, and to a restored portrait: `python benchmarks/app.py --out FILE`.

Each run is a fresh process, served on this machine, and asked over HTTP as the browser asks. The record says whether
transformers, which diffusers imports where it is installed, was there.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import torch

from flashdiffusion.app.choice import DEFAULT
from flashdiffusion.app.clicks import NONE, example
from flashdiffusion.app.damages import DAMAGES, FACES
from flashdiffusion.data import write_json
from flashdiffusion.jobs.records import made_by


def one_run() -> dict[str, float]:
    """Seconds from the command to the page, and to the result, and of the processor; the client's own import apart."""
    from gradio_client import Client

    blur = DAMAGES["blur"]
    began = time.perf_counter()
    command = [sys.executable, "-m", "flashdiffusion", "app", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = re.search(r"http://\S+", process.stdout.readline())
            assert address is not None
            page = time.perf_counter() - began
            client = Client(address[0], verbose=False)
            ticket = client.predict(api_name="/ask")
            fields = (ticket, None, FACES, "whole", blur.name, blur.strengths[0].usual, 0, blur.noise_std, False)
            more = (DEFAULT, NONE, "balanced", 1, 0)
            told = client.submit(*fields, *more, api_name="/restore")
            said = [str(told.result()), *map(str, told.outputs())]
            assert "Done in" in said[0] or "Done in" in said[-1], said[-1]
            restored = time.perf_counter() - began
            return {"page": page, "restored": restored, "processor": _processor(process.pid)}
        finally:
            process.terminate()


def _processor(pid: int) -> float:
    """Seconds of the processor that the page has taken, with its processes; others of the machine do not change it."""
    page = psutil.Process(pid)
    times = [one.cpu_times() for one in (page, *page.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    runs = [one_run() for _ in range(given.runs)]
    seconds = {}
    for name in runs[0]:
        times = [one[name] for one in runs]
        seconds[name] = {"median": statistics.median(times), "min": min(times), "max": max(times)}
        print(f"{name:10s} {seconds[name]['median']:.1f} s  ({min(times):.1f} to {max(times):.1f})")
    about = {"picture": example(FACES).name, "model": FACES, "runs": given.runs, "cores": os.cpu_count()}
    about |= {"transformers": find_spec("transformers") is not None, "load": os.getloadavg()[0], "seconds": seconds}
    write_json(given.out, made_by(torch.device("cpu"), about))


if __name__ == "__main__":
    main()
