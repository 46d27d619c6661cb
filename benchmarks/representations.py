"""Models of photographs on several latents, each trained for the same minutes: which of them restores best?

`haar2` is the recipe's: squares of 2 x 2 pixels under Haar's transform. `haar2-half` and `haar2-one` divide its
channels by their standard deviation to the power of 1/2 and 1, `haar4` has squares of 4 x 4, and `learned` the
autoencoder of faces-128. Train the stages with nothing else on their core; `measure` compares what was made: the bound
of the autoencoder, and the decoded estimates of the severity encoder.

python benchmarks/representations.py haar2 autoencoder --data TRAIN... --minutes 1 --out FOLDER
python benchmarks/representations.py haar2 severity --data TRAIN... --minutes 3.5 --out FOLDER
python benchmarks/representations.py haar2 measure --data VAL --lpips LPIPS --out FOLDER
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from flashdiffusion.data import ImageDataset
from flashdiffusion.jobs.records import made_by
from flashdiffusion.metrics import psnr
from flashdiffusion.metrics.lpips import LPIPS
from flashdiffusion.physics import get_task
from flashdiffusion.physics.tasks import measure as measured_of
from flashdiffusion.priors import load_autoencoder
from flashdiffusion.severity.loading import load_severity_encoder
from flashdiffusion.solvers import Problem
from flashdiffusion.training.config import PatchConfig, Recipe
from flashdiffusion.training.recipes import get_recipe
from flashdiffusion.training.run import train

SIDE = 240  # pixels of an image that are measured, from its corner
TASKS = {"denoising": 0.098, "gaussian-blur-fixed": 0.01, "random-inpainting": 0.02, "super-resolution-2": 0.01}


def variants() -> dict[str, Recipe]:
    """The recipes, by name."""
    patches, faces = get_recipe("photos-cpu"), get_recipe("faces-128-cpu")
    wider = {"in_channels": 48, "out_channels": 48, "block_out_channels": [96, 128, 160]}
    latents = {"in_channels": 8, "out_channels": 8, "block_out_channels": [96, 128, 160]}

    def of(autoencoder: PatchConfig, **network: object) -> Recipe:
        model = patches.denoiser.model | network
        denoiser, severity = (replace(stage, model=model) for stage in (patches.denoiser, patches.severity))
        return replace(patches, autoencoder=autoencoder, denoiser=denoiser, severity=severity)

    severity = replace(faces.severity, task=patches.severity.task, noise_std=patches.severity.noise_std)
    learned = replace(of(patches.autoencoder, **latents), autoencoder=faces.autoencoder, severity=severity)
    return {
        "haar2": patches,
        "haar2-half": of(PatchConfig(patch=2, exponent=0.5)),
        "haar2-one": of(PatchConfig(patch=2, exponent=1.0)),
        "haar4": of(PatchConfig(patch=4), **wider),
        "learned": learned,
    }


@torch.no_grad()
def measure(folder: Path, options: argparse.Namespace) -> None:
    """Write FOLDER/VARIANT.json: mean PSNR and LPIPS of the autoencoder, and of estimates of each degradation."""
    autoencoder, net = load_autoencoder(folder / "autoencoder"), LPIPS.load(options.lpips)
    encoders = [folder / "severity_encoder"] if (folder / "severity_encoder").is_dir() else []
    data = ImageDataset(options.data, None, options.images)
    found: dict[str, list[tuple[float, float]]] = {}
    for row in range(len(data)):
        x = data[row][None, :, :SIDE, :SIDE].float() / 255
        shown = {"bound": autoencoder.encode(x)}
        for encoder in (load_severity_encoder(one, autoencoder) for one in encoders):
            for task, noise_std in TASKS.items():
                measured = measured_of(x, [data.ids[row]], get_task(task), noise_std, seed=2)
                problem = Problem(measured.y, measured.physics)
                shown[task] = problem.severity(encoder.eval()).z_hat
        for name, z in shown.items():
            image = autoencoder.decode(z).clamp(0, 1)
            found.setdefault(name, []).append((float(psnr(image, x)), float(net(image, x))))
    means = {
        name: {"psnr": sum(p for p, _ in rows) / len(rows), "lpips": sum(q for _, q in rows) / len(rows)}
        for name, rows in found.items()
    }
    print(options.variant, ", ".join(f"{name} {one['psnr']:.2f} / {one['lpips']:.3f}" for name, one in means.items()))
    about = made_by(torch.device("cpu"), {name: str(value) for name, value in vars(options).items()})
    (options.out / f"{options.variant}.json").write_text(json.dumps(about | {"means": means}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", choices=variants())
    parser.add_argument("stage", choices=("autoencoder", "denoiser", "severity", "measure"))
    parser.add_argument("--data", nargs="+", required=True, help="folders of images or .tar shards")
    parser.add_argument("--minutes", type=float, help="time box of a stage")
    parser.add_argument("--images", type=int, default=16, help="images to measure")
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--lpips", help="LPIPS weights, for the learned autoencoder")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    folder, recipe = options.out / options.variant, variants()[options.variant]
    if options.stage == "measure":
        measure(folder, options)
        return
    given = {"max_minutes": options.minutes, "max_steps": options.max_steps, "lpips": options.lpips}
    train(options.stage, options.data, recipe, folder, **given)


if __name__ == "__main__":
    main()
