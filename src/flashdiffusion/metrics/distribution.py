"""Metrics of a whole run: how far its restored images, as a set, are from the true ones.

Features of each image are made where it is restored, and are small enough to be kept beside its record. The distance
is of all of them, so that it is the same however often a run was interrupted, and whoever did its parts.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from flashdiffusion.data import in_chunks
from flashdiffusion.errors import InputError, blamed_on, check_name
from flashdiffusion.metrics.lpips import LPIPS

CHUNK = 64  # images whose features are added together
# Images in [0, 1], (B, 3, H, W) -> (B, d).
Features = Callable[[Tensor], Tensor]
INCEPTION = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


@dataclass(frozen=True)
class Distribution:
    """A Fréchet distance between the features of restored and of true images; less is better.

    load: makes the features' network from the weights that the run's metrics were given, by the metric's name; raises
    InputError where it cannot. smallest: side in pixels below which an image does not count. digits: decimals worth
    printing.
    """

    name: str
    heading: str
    load: Callable[[Mapping[str, str | Path]], Features]
    smallest: int = 1
    digits: int = 2


DISTRIBUTIONS: dict[str, Distribution] = {}


def register_distribution(distribution: Distribution) -> Distribution:
    """Register a metric of whole runs."""
    DISTRIBUTIONS[distribution.name] = distribution
    return distribution


class Distributions:
    """Networks of the metrics asked for; `missing` says which cannot be had, and why.

    Args:
        names: of registered metrics.
        weights: weights by the metric's name, as for `Metrics`.

    Raises:
        InputError: no such metric.
    """

    def __init__(self, names: Iterable[str], weights: Mapping[str, str | Path] | None = None) -> None:
        self.networks: dict[str, Features] = {}
        self.missing: dict[str, str] = {}
        for name in names:
            check_name("metric of runs", name, DISTRIBUTIONS)
            try:
                self.networks[name] = DISTRIBUTIONS[name].load(weights or {})
            except InputError as error:
                self.missing[name] = f"{name}: {error}"

    @torch.no_grad()
    def features(self, restored: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """Features of one image, (3, H, W) x 2 in [0, 1] -> float16 (2, d) by metric; none where it is too small."""
        images, side = torch.stack([restored, truth]), min(truth.shape[1:])
        used = {name: network for name, network in self.networks.items() if side >= DISTRIBUTIONS[name].smallest}
        return {name: network(images).half().cpu() for name, network in used.items()}


@dataclass(frozen=True)
class Distance:
    """A distance over `images` images; or None, and why it is missing."""

    value: float | None
    images: int
    missing: str | None = None


class Frechet:
    """‖μ - μ'‖² + tr(C + C' - 2 (C C')^½) of features that come in parts; sums and their products are float64.

    Args:
        dimensions: d, of the features.
    """

    def __init__(self, dimensions: int) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        self.dimensions, self.images = dimensions, 0
        self._sums = FrechetInceptionDistance(_Given(dimensions))

    def update(self, restored: Tensor, truth: Tensor) -> None:
        """Take features (B, d) x 2."""
        self.images += len(restored)
        self._sums.update(restored.double(), real=False)
        self._sums.update(truth.double(), real=True)

    def compute(self) -> float:
        """Compute the distance of all so far, of two images at least."""
        return max(0.0, float(self._sums.compute()))  # of equal ones, rounding leaves less


class _Given(nn.Identity):
    """In the place of a network, for features that are there."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.num_features = dimensions


def frechet(restored: Tensor, truth: Tensor) -> float:
    """Compute the distance of features (N, d) x 2, see `Frechet`; with N <= d it depends much on N."""
    distance = Frechet(restored.shape[1])
    distance.update(restored, truth)
    return distance.compute()


def distances(seen: Iterable[Mapping[str, Tensor]]) -> dict[str, Distance]:
    """Compute every distance by its metric's name, in one pass over the `Distributions.features` of a run's images.

    None where there are no more images than features, whose covariance would not have full rank.
    """
    found: dict[str, Frechet] = {}
    for chunk in in_chunks(seen, CHUNK):
        for name in dict.fromkeys(name for one in chunk for name in one):
            restored, truth = torch.stack([one[name] for one in chunk if name in one], dim=1)
            found.setdefault(name, Frechet(restored.shape[1])).update(restored, truth)
    return {name: _distance(name, one) for name, one in found.items()}


def _distance(name: str, found: Frechet) -> Distance:
    if found.images <= found.dimensions:
        return Distance(None, found.images, f"{name} needs {found.dimensions + 1} images, got {found.images}")
    return Distance(found.compute(), found.images)


def _alex(weights: Mapping[str, str | Path]) -> Features:
    """What LPIPS' last AlexNet layer sees, averaged over places: 256 features."""
    if "lpips" not in weights:
        raise InputError("it needs the LPIPS weights of alex (docs/metrics.md)")
    lpips = LPIPS.load(weights["lpips"])
    if lpips.net != "alex":
        raise InputError(f"it needs the LPIPS weights of alex; {weights['lpips']} is {lpips.net}")
    return lpips.pooled


def _inception(weights: Mapping[str, str | Path]) -> Features:
    """FID's Inception by torch-fidelity, on images of 8 bits: 2048 features."""
    if find_spec("torch_fidelity") is None:
        raise InputError("it needs torch-fidelity: pip install torch-fidelity")
    from torchmetrics.image.fid import NoTrainInceptionV3

    path = Path(weights.get("fid", Path(torch.hub.get_dir()) / "checkpoints" / Path(INCEPTION).name))
    if not path.is_file():
        raise InputError(f"no Inception weights at {path}; download {INCEPTION} there")
    with blamed_on(f"{path}: not the Inception weights of torch-fidelity"):
        torch.load(path, map_location="cpu", weights_only=True)  # it holds tensors alone: torch-fidelity does not ask
        network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path))
    return lambda x: network(x.mul(255).round().byte())


register_distribution(Distribution("fd_alex", "FD (alex)", _alex, smallest=31))
register_distribution(Distribution("fid", "FID", _inception))
