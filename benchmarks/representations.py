"""Models of photographs on several latents, each trained for the same minutes: which of them restores best?

`haar2` is the recipe's: squares of 2 x 2 pixels under Haar's transform. `haar2-half` and `haar2-one` divide its
channels by their standard deviation to the power of 1/2 and 1, `haar4` has squares of 4 x 4, and `learned` the
autoencoder of faces-128, trained for the minutes of the other two stages together. Run the stages side by side, with
nothing else on the machine, and `evaluate` what they made:

python benchmarks/representations.py haar2 denoiser --data TRAIN... --minutes 6 --out FOLDER
python benchmarks/representations.py haar2 severity --data TRAIN... --minutes 6 --out FOLDER
flashdiffusion evaluate --model FOLDER/haar2 --data VAL --task denoising --method flash --out FOLDER/results/haar2
"""

import argparse
from dataclasses import replace
from pathlib import Path

from flashdiffusion.training.config import PatchConfig, Recipe
from flashdiffusion.training.recipes import get_recipe
from flashdiffusion.training.run import train


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", choices=variants())
    parser.add_argument("stage", choices=("autoencoder", "denoiser", "severity"))
    parser.add_argument("--data", nargs="+", required=True, help="folders of images or .tar shards")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--lpips", help="LPIPS weights, for the learned autoencoder")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    folder, recipe = options.out / options.variant, variants()[options.variant]
    given = {"max_minutes": options.minutes, "max_steps": options.max_steps, "lpips": options.lpips}
    train(options.stage, options.data, recipe, folder, **given)


if __name__ == "__main__":
    main()
