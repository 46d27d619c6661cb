"""How near `estimate_noise_std`, behind `--noise-std auto`, comes to the noise that was added.

Of each image, whole and blurred: the estimate at each noise, as it was measured and as an 8-bit image file holds it.

python benchmarks/noise.py --data VAL --images 16 --out OUT.json
"""

import argparse
import json
import statistics
from pathlib import Path

import torch
from torch import Tensor

from flashdiffusion.data import ImageDataset
from flashdiffusion.jobs.records import made_by
from flashdiffusion.physics import GaussianBlur, estimate_noise_std
from flashdiffusion.seeds import image_generator

STDS, BLURS = (0.0, 0.02, 0.05, 0.1, 0.2), (0.0, 2.0)


def as_file(y: Tensor) -> Tensor:
    """Clip and round as an 8-bit image file does."""
    return (255 * y.clamp(0, 1)).round() / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of images or .tar shard")
    parser.add_argument("--out", type=Path, required=True, help="figures (JSON)")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    data = ImageDataset([Path(given.data)], given.size)
    rows = range(min(given.images, len(data)))
    x = data.batch(rows)
    found = []
    for blur in BLURS:
        for std in STDS:
            physics = GaussianBlur(blur, std)
            y = torch.cat([physics(x[[row]], image_generator(given.seed, data.ids[row])) for row in rows])
            for kind, held in (("floats", y), ("8-bit file", as_file(y))):
                one = estimate_noise_std(held).tolist()
                found.append({"blur": blur, "noise_std": std, "held_as": kind, "mean": statistics.mean(one)})
                found[-1] |= {"lowest": min(one), "highest": max(one), "of_images": one}
                print(f"blur {blur:g}, noise {std:g}, {kind}: {found[-1]['mean']:.4f} [{min(one):.4f}, {max(one):.4f}]")
    result = made_by(x.device, {key: str(value) for key, value in vars(given).items()}) | {"figures": found}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
