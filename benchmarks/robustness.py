"""Off the training distribution: is a restoration ever worse than decoding the severity encoder's estimate as it is?

Each case measures the images by one physics and restores them as if by another (`told`). Differences are of LPIPS,
means over the images with bootstrap 95 % intervals; below 0 the restoration is better than D0(ẑ). With --blind the
encoder sees the measurement alone.

python benchmarks/robustness.py --data TEST --lpips LPIPS --images 32 --out OUT.json
"""

import json
from collections.abc import Callable

import torch
from torch import Tensor

from common import measuring_parser
from flashdiffusion import FlashPipeline
from flashdiffusion.jobs.evaluate import open_data
from flashdiffusion.jobs.records import made_by
from flashdiffusion.metrics.lpips import LPIPS
from flashdiffusion.physics import JPEG, BatchedPhysics, CameraShake, GaussianBlur, RandomInpainting, SuperResolution
from flashdiffusion.reports import interval
from flashdiffusion.seeds import image_generator
from flashdiffusion.severity import Conditions, Severity, SeverityEncoder

Make = Callable[[torch.Generator], BatchedPhysics]


def blur(std: float, noise: float = 0.05) -> Make:
    return lambda generator: GaussianBlur(std, noise_std=noise)


def shake(generator: torch.Generator) -> BatchedPhysics:
    return CameraShake.from_std(2.0, generator, noise_std=0.05)


def lost(share: float, noise: float = 0.05) -> Make:
    return lambda generator: RandomInpainting.from_ratio(share, (128, 128), generator, noise_std=noise)


# What measured the images, and what the restoration is told: another make draws its own random parts.
CASES: dict[str, tuple[Make, Make | None]] = {
    "blur of 3 pixels, told 1.5": (blur(3), blur(1.5)),
    "blur of 1.5 pixels, told 3": (blur(1.5), blur(3)),
    "camera shake, told blur of 2 pixels": (shake, blur(2)),
    "blur of 2 pixels, told camera shake": (blur(2), shake),
    "blur of 5 pixels": (blur(5), None),
    "blur of 2 pixels, noise 0.3": (blur(2, 0.3), None),
    "blur of 2 pixels, noise 0.3, told 0.05": (blur(2, 0.3), blur(2)),
    "blur of 2 pixels, noise 0, told 0.05": (blur(2, 0.0), blur(2)),
    "75 % lost, noise 0.3": (lost(0.75, 0.3), None),
    "JPEG of quality 10": (lambda generator: JPEG(10, 0.05), None),
    "super-resolution by 4": (lambda generator: SuperResolution(4, noise_std=0.05), None),
}


class Blind(SeverityEncoder):
    """An encoder that does not listen to what it is told."""

    def forward(self, y: Tensor, known: Conditions | None = None) -> Severity:
        return super().forward(y)


def main() -> None:
    parser = measuring_parser(__doc__, images=32, seed=2)
    parser.add_argument("--lpips", required=True, help="LPIPS weights")
    parser.add_argument("--method", default="flash(proximal)")
    parser.add_argument("--blind", action="store_true", help="tell the encoder nothing")
    given = parser.parse_args()
    pipe = FlashPipeline.from_pretrained(given.model)
    if given.blind and pipe.severity_encoder is not None:
        blind = Blind.from_config(pipe.severity_encoder.config)
        blind.load_state_dict(pipe.severity_encoder.state_dict())
        pipe.severity_encoder = blind.requires_grad_(False).eval()
    distance = LPIPS.load(given.lpips)
    data = open_data(pipe, [given.data], given.images)
    x = data.batch(range(len(data)))
    result = made_by(pipe.device, {key: str(value) for key, value in vars(given).items()}) | {"cases": {}}
    for name, (make, told) in CASES.items():
        ys, physics = [], []
        for n, image_id in enumerate(data.ids):
            generator = image_generator(given.seed, image_id)
            made = make(generator)
            ys.append(made(x[n : n + 1], generator))
            physics.append(made if told is None else told(generator))
        y, joined = torch.cat(ys), type(physics[0]).join(physics)
        restored = {one: pipe(y, joined, method=one, seed=given.seed) for one in (given.method, "ae")}
        with torch.no_grad():
            own, plain = (distance(one.images, x) for one in restored.values())
        gains = (own - plain).tolist()
        figures = {
            "lpips": float(own.mean()),
            "lpips_estimate": float(plain.mean()),
            "difference": sum(gains) / len(gains),
        }
        figures |= {"interval": interval(gains), "worse": sum(gain > 0 for gain in gains)}
        figures |= {
            "severity": float(restored[given.method].severity.mean()),
            "nfe": float(restored[given.method].nfe.float().mean()),
        }
        result["cases"][name] = figures
        print(
            name,
            {k: [round(v, 4) for v in f] if isinstance(f, tuple) else round(f, 4) for k, f in figures.items()},
            flush=True,
        )
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
