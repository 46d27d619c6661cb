"""The paper's networks at full size, with random weights: what a step costs, and the engine against one by one.

    python benchmarks/full_size.py --out FILE --device cuda --precision bfloat16 --compile --batch 8 --max-in-flight 32
    python benchmarks/full_size.py --out FILE --images 0 --repeats 1                  # one CPU: the step alone
    python benchmarks/full_size.py --out FILE --scale 8 --size 64 --images 8 --starts 2:6 --matmul 256   # a trial

The networks are those of CompVis/ldm-celebahq-256: a U-Net of 274 M parameters on 64x64x3 latents and the VQ-f4
autoencoder, for images of 256x256. Random weights have no severity, so each image's start is drawn, uniformly from
--starts: the default has the mean that the paper reports for Flash, about 100 of 1000 steps.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel, VQModel
from torch import Tensor

from flashdiffusion import FlashPipeline, GaussianBlur, Settings
from flashdiffusion.engine.stream import Stream, StreamOptions
from flashdiffusion.pipeline import Batch, Restored
from flashdiffusion.priors import DiffusersAutoencoder, LatentPrior
from flashdiffusion.schedule import Grid
from flashdiffusion.solvers import Problem, Start, StartRule
from measure import DTYPES, drawn, measure_batches, parser_of, synchronize, write

PARAMETERS = 274e6  # of the U-Net, as published
READ = 16  # measurements that come together
GUIDANCE = 1.0  # step size of the data consistency


def make_denoiser(scale: int = 1, size: int = 256) -> UNet2DModel:
    """The U-Net, its channels divided by `scale`."""
    groups = max(1, 32 // scale)
    return UNet2DModel(
        sample_size=size // 4,
        in_channels=3,
        out_channels=3,
        block_out_channels=tuple(width // scale for width in (224, 448, 672, 896)),
        layers_per_block=2,
        attention_head_dim=groups,
        norm_num_groups=groups,
        down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * 3),
        up_block_types=(*["AttnUpBlock2D"] * 3, "UpBlock2D"),
    )


def make_autoencoder(scale: int = 1, size: int = 256) -> VQModel:
    """The VQ-f4 autoencoder, its channels divided by `scale`."""
    return VQModel(
        in_channels=3,
        out_channels=3,
        block_out_channels=tuple(width // scale for width in (128, 256, 512)),
        layers_per_block=2,
        latent_channels=3,
        num_vq_embeddings=8192 // scale,
        norm_num_groups=max(1, 32 // scale),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        sample_size=size,
        scaling_factor=1.0,
    )


def full_size(scale: int = 1, size: int = 256) -> FlashPipeline:
    """The pipeline of both, its start left to the caller."""
    denoiser = make_denoiser(scale, size)
    if scale == 1 and round(parameters(denoiser) / 1e6) != round(PARAMETERS / 1e6):
        raise ValueError(f"a U-Net of {parameters(denoiser):,} parameters; expected {PARAMETERS:,.0f}")
    schedule = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195, clip_sample=False)
    return FlashPipeline(
        LatentPrior(DiffusersAutoencoder(make_autoencoder(scale, size)), denoiser, schedule), sample_size=size
    )


def parameters(network: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


@dataclass(frozen=True)
class DrawnStart:
    """Noise at a k of `least` to `most`."""

    least: int
    most: int

    def __call__(self, problem: Problem, prior: LatentPrior, grid: Grid, noise: Tensor) -> Start:
        return Start(noise, drawn(noise, self.least, self.most).to(noise.device))


def batches_of(count: int, size: int, seed: int) -> list[Batch]:
    """Measurements of random images, as they would be read from a disk."""
    generator, batches = torch.Generator().manual_seed(seed), []
    for first in range(0, count, READ):
        ids = [str(n) for n in range(first, min(first + READ, count))]
        physics = GaussianBlur(torch.linspace(0.5, 3, len(ids)), noise_std=0.05)
        images = torch.rand(len(ids), 3, size, size, generator=generator)
        batches.append(Batch(ids, physics(images, generator), physics))
    return batches


def one_by_one(batches: Sequence[Batch], count: int) -> list[list[Batch]]:
    """The first `count` images, each in a stream of its own."""
    found = []
    for batch in batches:
        for n, name in enumerate(batch.ids):
            one = Problem(batch.y, batch.physics).take(torch.tensor([n]))
            found.append([Batch([name], one.y, one.physics)])
    return found[:count]


def race(
    pipeline: FlashPipeline, streams: Sequence[Sequence[Batch]], start: StartRule, max_in_flight: int | None, seed: int
) -> dict[str, Any]:
    """Restore the images of one stream after the other; how fast that was, and how full the steps were."""
    device, moved, done = pipeline.prior.device, list[int](), list[Restored]()
    settings = Settings(guidance=GUIDANCE)
    synchronize(device)
    began = time.perf_counter()
    for batches in streams:
        options = StreamOptions("latent-dps", start, seed, settings, max_in_flight, on_step=moved.append)
        done += Stream(pipeline, options).run(batches)
    synchronize(device)
    seconds = time.perf_counter() - began
    rows = max_in_flight or max(moved)
    return {
        "images": len(done),
        "steps": sum(moved),
        "starts": {one.id: one.start_step for one in sorted(done, key=lambda one: one.index)},
        "max_in_flight": rows,
        "occupancy": sum(moved) / (len(moved) * rows),
        "seconds": seconds,
        "images_per_s": len(done) / seconds,
        "steps_per_s": sum(moved) / seconds,
        "failed": {one.id: one.failed for one in done if one.failed is not None},
    }


def compare(
    pipeline: FlashPipeline, options: argparse.Namespace, step_gflop: float, peak: float
) -> dict[str, dict[str, Any]]:
    """The engine against one image at a time, on images of the same starts."""
    least, _, most = options.starts.partition(":")
    start = DrawnStart(int(least), int(most or least))
    batches = batches_of(options.images, options.size, options.seed)
    alone = one_by_one(batches, options.alone or options.images)
    found = {}
    for name, streams, max_in_flight in (("engine", [batches], options.max_in_flight), ("one by one", alone, 1)):
        # Kernels are chosen, networks compiled and arithmetic counted before the time runs.
        warm = batches_of(max_in_flight or READ, options.size, options.seed + 1)
        race(pipeline, [warm], DrawnStart(1, 2), max_in_flight, options.seed)
        result = race(pipeline, streams, start, max_in_flight, options.seed)
        found[name] = result | {"mfu": result["steps_per_s"] * step_gflop / peak}
        print(
            f"{name}: {result['images']} images, {result['steps']} steps in {result['seconds']:.1f} s; "
            f"{result['images_per_s']:.3f} images/s, {result['steps_per_s']:.2f} steps/s, "
            f"MFU {found[name]['mfu']:.1%}, {result['occupancy']:.1%} of {result['max_in_flight']} slots filled, "
            f"{len(result['failed'])} failed"
        )
    ratio = found["engine"]["steps_per_s"] / found["one by one"]["steps_per_s"]
    print(f"steps per second, engine over one by one: {ratio:.2f}")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, [1])
    parser.add_argument("--scale", type=int, default=1, help="divides the channels: 1, 2, 4, 8 or 16")
    parser.add_argument("--size", type=int, default=256, help="side of the images, a multiple of 32")
    parser.add_argument("--images", type=int, default=64, help="images of the engine; 0: the step alone")
    parser.add_argument("--alone", type=int, default=4, help="images of those one by one; 0: all")
    parser.add_argument("--max-in-flight", type=int, help="images in flight; default: as many as fit")
    parser.add_argument("--starts", default="20:180", help="LEAST:MOST steps of an image")
    options = parser.parse_args(arguments)
    device, dtype = torch.device(options.device), DTYPES[options.precision]
    torch.manual_seed(options.seed)
    pipeline = full_size(options.scale, options.size).to(device, dtype)
    counts = {
        "denoiser": parameters(pipeline.prior.denoiser),
        "autoencoder": parameters(pipeline.prior.autoencoder),
    }
    print(", ".join(f"{name}: {count / 1e6:.2f} M parameters" for name, count in counts.items()))
    if options.compile:
        pipeline.compile(options.compile)
    solver, _ = pipeline.method("latent-dps", "noise", Settings(guidance=GUIDANCE))
    shape = pipeline.prior.latent_shape((options.size, options.size))
    about = {"size": options.size, "scale": options.scale, "parameters": counts}
    results = measure_batches(options, solver, shape, about)
    if options.images:
        gflop = results["steps"][0]["sums"]["solver.step"]["gflop"] / results["steps"][0]["batch"]
        found = compare(pipeline, options, gflop, max(results["ceiling"].values()))
        write(options, results | {"race": found})


if __name__ == "__main__":
    main()
