"""Fit the head of a severity encoder alone: it learns how large the errors of a finished encoder are.

While the encoder is trained its errors shrink, and the head is always late. Here the features of images are computed
once, degraded by each --task in turn, with some of what is known left out. Then the head goes over them a few times;
the image's mean counts more than the single place. A fit is worst at the edge of what it saw, where severities would
stop rising, so noise and the levels of a single task go --reach times as far as they are used.

python benchmarks/fit_head.py --data TRAIN... --images 8192 --out FOLDER
"""

import argparse
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from flashdiffusion import FlashPipeline
from flashdiffusion.data import ImageDataset
from flashdiffusion.errors import InputError
from flashdiffusion.jobs.records import made_by
from flashdiffusion.physics import Task
from flashdiffusion.severity import Conditions, SeverityEncoder
from flashdiffusion.training.degrade import Degradation
from flashdiffusion.training.draws import Draws
from flashdiffusion.training.severity import told

BATCH, EPOCHS, RATE, LOCAL = 32, 12, 3e-3, 0.3
TASKS = ("mixture-and-holes", "gaussian-blur")
NOTHING = 0.4  # share of the images of which nothing is told: twice that of training, since these are fewer


class Watched(SeverityEncoder):
    """An encoder that keeps what its head was given."""

    def _log_variance(self, features: Tensor, known: Conditions) -> Tensor:
        self.given = features, known
        return super()._log_variance(features, known)


@torch.no_grad()
def features_of(
    encoder: Watched, pipe: FlashPipeline, data: ImageDataset, degradations: list[Degradation], count: int, seed: int
) -> list[Tensor]:
    """Features (N, 2c, h, w) as float16, numbers that are known (N, n), squared errors (N, h, w)."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:count]
    found: list[tuple[Tensor, ...]] = []
    for step, rows in enumerate(tqdm(order.split(BATCH), desc="features")):
        x = data.batch(rows.tolist())
        draws = Draws(seed, step, len(x), slice(0, len(x)), "cpu")
        y, known = told(degradations[step % len(degradations)].seen(x, draws), draws, NOTHING)
        error = (encoder(y, known).z_hat - pipe.prior.encode(x)).square().mean(dim=1)
        features, known = encoder.given
        found.append((features.half(), known.summary(encoder.config.conditions), error))
    return [torch.cat(column) for column in zip(*found, strict=True)]


def fit(encoder: Watched, features: Tensor, numbers: Tensor, errors: Tensor, seed: int) -> float:
    """Train the head; returns the last epoch's mean loss."""
    torch.manual_seed(seed)
    fresh = SeverityEncoder.from_config(encoder.config)
    encoder.log_var, encoder.modulation = fresh.log_var.train(), fresh.modulation.train()
    parameters = [*encoder.log_var.requires_grad_().parameters(), *encoder.modulation.requires_grad_().parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=1e-3)
    steps = EPOCHS * -(-len(features) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min(1, (n + 1) / 20) * (1 - n / steps))
    for epoch in range(EPOCHS):
        total = 0.0
        for rows in torch.randperm(len(features)).split(BATCH):
            log_var = encoder.modulated(features[rows].float(), numbers[rows])[:, 0].clamp(-12, 4)
            error = errors[rows].clamp(min=1e-8)
            excess = error.log() - log_var
            whole = log_var.exp().mean(dim=(1, 2)).log() - error.mean(dim=(1, 2)).log()
            loss = whole.square().mean() + LOCAL * (excess.exp() - excess - 1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(rows) / len(features)
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {total:.4f}", flush=True)
    return total


def degradation_of(name: str, noise_std: float, reach: float) -> Degradation:
    degradation = Degradation(name, (0.0, reach * noise_std))
    task = degradation.task
    if isinstance(task, Task):
        high = task.low + reach * (task.high - task.low)
        with suppress(InputError):  # a level that the operator does not take, such as more pixels lost than there are
            task.at(high, (64, 64), torch.Generator().manual_seed(0), 0.0)
            degradation.task = replace(task, high=high)
    return degradation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="training images: folders or .tar shards")
    parser.add_argument("--model", help="latent model; default: the embedded one")
    parser.add_argument("--task", nargs="+", default=TASKS, help="what the encoder was trained on")
    parser.add_argument("--noise-std", type=float, default=0.3, help="the largest σ_y that it was trained on")
    parser.add_argument("--reach", type=float, default=4 / 3)
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, required=True, help="folder for the severity encoder, and fit.json")
    given = parser.parse_args()
    pipe = FlashPipeline.from_pretrained(given.model)
    own = pipe.severity_encoder
    if own is None or own.config.head != "log-variance" or own.config.conditions is None:
        raise SystemExit("this model's severity encoder has no head that is told what is known; expected one that has")
    encoder = Watched.from_config(own.config)
    encoder.load_state_dict(own.state_dict())
    encoder.requires_grad_(False).eval()
    data = ImageDataset(given.data, pipe.sample_size)
    degradations = [degradation_of(name, given.noise_std, given.reach) for name in given.task]
    features = features_of(encoder, pipe, data, degradations, given.images, given.seed)
    loss = fit(encoder, *features, given.seed)
    plain = SeverityEncoder.from_config(encoder.config, variance_scale=1.0)  # the errors were taken as they are
    plain.load_state_dict(encoder.state_dict())
    plain.half().save_pretrained(given.out)
    result = made_by(pipe.device, {key: str(value) for key, value in vars(given).items()}) | {"loss": loss}
    (given.out / "fit.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
