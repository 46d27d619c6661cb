"""What benchmarks share: the paper's tasks, where a cell's results lie, running a command, options."""

import argparse
import sys
from pathlib import Path

from flashdiffusion.cli import main as flashdiffusion

TASKS = {
    "gaussian-blur": "varying blur",
    "gaussian-blur-fixed": "fixed blur",
    "nonlinear-blur": "nonlinear blur",
    "random-inpainting": "random inpainting",
}


def path_of(out: Path, task: str, method: str) -> Path:
    """Results file of a cell."""
    return out / f"{task}--{method.replace('(', '-').replace(')', '')}.json"


def run(arguments: list[str]) -> None:
    """One command, in this process."""
    sys.argv = ["flashdiffusion", *arguments]
    try:
        flashdiffusion()
    except SystemExit as stop:
        if stop.code:
            raise


def parser_of(description: str | None, images: int, seed: int) -> argparse.ArgumentParser:
    """A parser with the options of both."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of images or .tar shard")
    parser.add_argument("--lpips", help="LPIPS weights")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--images", type=int, default=images)
    parser.add_argument("--baseline-steps", type=int, help="time grid of the methods without Flash; default: in full")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--model", help="latent model; default: the embedded one")
    parser.add_argument("--share", default="0/1", help="I/N: the I-th of N processes that share the work")
    parser.add_argument("--report", action="store_true", help="print what is there as text")
    return parser


def measuring_parser(description: str | None, images: int, seed: int) -> argparse.ArgumentParser:
    """A parser with the options of what measures a model on images."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of images or .tar shard")
    parser.add_argument("--model", help="latent model; default: the embedded one")
    parser.add_argument("--images", type=int, default=images)
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--out", type=Path, required=True, help="figures (JSON)")
    return parser
