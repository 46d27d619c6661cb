"""DeepInverse's operators in our pipeline, over its whole list: PSNR beside the inverse, or why it is refused.

make deepinv-table DATA=FOLDER_OR_TAR
"""

import argparse
import re
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from deepinv import physics as P
from flashdiffusion import FlashPipeline, GaussianBlur
from flashdiffusion.data import ImageDataset
from flashdiffusion.errors import FlashDiffusionError, brief
from flashdiffusion.physics import Compose, flattened
from flashdiffusion.solvers import Problem

SIZE = 128
SIGMA = 0.05


def noise() -> P.GaussianNoise:
    return P.GaussianNoise(SIGMA, rng=generator())


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def blur_filter(std: float = 2.0) -> Tensor:
    return P.blur.gaussian_blur(sigma=std)


def disc(side: int = 5) -> Tensor:
    """A second filter, flat."""
    return torch.ones(1, 1, side, side) / side**2


def space_varying(side: int, **options: Any) -> P.SpaceVaryingBlur:
    """Sharper at the left, blurrier at the right."""
    ramp = torch.linspace(0, 1, side).expand(1, 1, side, side)
    filters = torch.stack([torch.nn.functional.pad(disc(3), (3, 3, 3, 3)), disc(9)], dim=2)
    return P.SpaceVaryingBlur(filters, torch.stack([1 - ramp, ramp], dim=2), padding="circular", **options)


def lines(side: int, share: float = 0.5) -> Tensor:
    """A sampling mask of Fourier space (1, side, side)."""
    mask = (torch.rand(side, generator=generator()) < share).float()
    mask[side // 2 - 8 : side // 2 + 8] = 1
    return mask.expand(1, 1, side, side)


NOISES: dict[str, Callable[[], P.NoiseModel]] = {
    "ZeroNoise": P.ZeroNoise,
    "GaussianNoise": noise,
    "UniformGaussianNoise": lambda: P.UniformGaussianNoise(0.02, 0.1, rng=generator()),
    "PoissonNoise": lambda: P.PoissonNoise(0.02, rng=generator()),
    "PoissonGaussianNoise": lambda: P.PoissonGaussianNoise(0.02, 0.03, rng=generator()),
    "UniformNoise": lambda: P.UniformNoise(0.1, rng=generator()),
    "LaplaceNoise": lambda: P.LaplaceNoise(0.05, rng=generator()),
    "SaltPepperNoise": lambda: P.SaltPepperNoise(0.02, 0.02, rng=generator()),
    "RicianNoise": lambda: P.RicianNoise(SIGMA, rng=generator()),
    "GammaNoise": lambda: P.GammaNoise(40.0),
    "FisherTippettNoise": lambda: P.FisherTippettNoise(40.0),
    "LogPoissonNoise": lambda: P.LogPoissonNoise(rng=generator()),
}
CASES: dict[str, Callable[[int], Any]] = {
    "Blur, circular": lambda n: P.Blur(blur_filter(), padding="circular", noise_model=noise()),
    "Blur, valid": lambda n: P.Blur(blur_filter(), padding="valid", noise_model=noise()),
    "BlurFFT": lambda n: P.BlurFFT((3, n, n), blur_filter(), noise_model=noise()),
    "SpaceVaryingBlur": lambda n: space_varying(n, noise_model=noise()),
    "TiledSpaceVaryingBlur": lambda n: P.TiledSpaceVaryingBlur(
        disc(5).expand(1, 1, 9, 5, 5), patch_size=n // 2, stride=n // 4, noise_model=noise()
    ),
    "Downsampling": lambda n: P.Downsampling((3, n, n), filter="gaussian", factor=4, noise_model=noise()),
    "DownsamplingMatlab": lambda n: P.DownsamplingMatlab(factor=4, noise_model=noise()),
    "Upsampling": lambda n: P.Upsampling((3, 2 * n, 2 * n), filter="bilinear", factor=2, noise_model=noise()),
    "Inpainting": lambda n: P.Inpainting((3, n, n), 0.5, rng=generator(), noise_model=noise()),
    "Demosaicing": lambda n: P.Demosaicing((3, n, n), noise_model=noise()),
    "Decolorize": lambda n: P.Decolorize(noise_model=noise()),
    "CompressedSensing": lambda n: P.CompressedSensing(
        n, (3, n, n), channelwise=True, rng=generator(), noise_model=noise()
    ),
    "SinglePixelCamera": lambda n: P.SinglePixelCamera(n * n // 2, (3, n, n), rng=generator(), noise_model=noise()),
    "StructuredRandom": lambda n: P.StructuredRandom((3, n, n), (3, n // 2, n), rng=generator(), noise_model=noise()),
    "Tomography": lambda n: P.Tomography(60, n, normalize=False, noise_model=noise()),
    "Tomography, normalize": lambda n: P.Tomography(60, n, normalize=True, noise_model=noise()),
    "Tomography, no backprop": lambda n: P.Tomography(
        60, n, normalize=True, adjoint_via_backprop=False, noise_model=noise()
    ),
    "Tomography, fan beam": lambda n: P.Tomography(60, n, normalize=True, fan_beam=True, noise_model=noise()),
    "TomographyWithAstra": lambda n: P.TomographyWithAstra((n, n), 60, device="cpu", noise_model=noise()),
    "composed: Blur, Downsampling": lambda n: P.compose(
        P.Blur(blur_filter(1.0), padding="circular"),
        P.Downsampling((3, n, n), filter="gaussian", factor=2, noise_model=noise()),
    ),
    "Compose(ours, theirs)": lambda n: Compose(
        GaussianBlur(1.0), P.Inpainting((3, n, n), 0.5, rng=generator(), noise_model=noise())
    ),
    "Compose(theirs, ours)": lambda n: Compose(
        P.Blur(blur_filter(1.0), padding="circular"), GaussianBlur(1.0, noise_std=SIGMA)
    ),
    "stacked: Blur, Inpainting": lambda n: P.stack(
        P.Blur(blur_filter(), padding="circular", noise_model=noise()),
        P.Inpainting((3, n, n), 0.3, rng=generator(), noise_model=noise()),
    ),
    "Pansharpen": lambda n: P.Pansharpen((3, n, n), noise_color=noise(), noise_gray=noise()),
    "HyperSpectralUnmixing": lambda n: P.HyperSpectralUnmixing(E=3, C=16, noise_model=noise()),
    "CompressiveSpectralImaging": lambda n: P.CompressiveSpectralImaging(
        (3, n, n), rng=generator(), noise_model=noise()
    ),
    "MRI": lambda n: P.MRI(lines(n), (n, n), noise_model=noise()),
    "DynamicMRI": lambda n: P.DynamicMRI(lines(n)[:, :, None].expand(1, 2, 4, n, n), (n, n), noise_model=noise()),
    "SequentialMRI": lambda n: P.SequentialMRI(lines(n)[:, :, None].expand(1, 2, 4, n, n), (n, n), noise_model=noise()),
    "MultiCoilMRI": lambda n: P.MultiCoilMRI(
        lines(n), torch.ones(1, 2, n, n, dtype=torch.complex64), (n, n), noise_model=noise()
    ),
    "NonCartesianMRI": lambda n: P.NonCartesianMRI((n, n), noise_model=noise()),
    "RadioInterferometry": lambda n: P.RadioInterferometry(
        (n, n), torch.rand(1, 2, 4 * n, generator=generator()) * 6 - 3, noise_model=noise()
    ),
    "PET": lambda n: P.PET((1, n, n)),
    "UltrasoundPlaneWave": lambda n: P.UltrasoundPlaneWave(
        (n, n), [0.0], torch.linspace(-0.01, 0.01, 16), 256, 2e7, pixel_size=(1e-4, 1e-4)
    ),
    "PhaseRetrieval": lambda n: P.PhaseRetrieval(P.Blur(blur_filter(), padding="circular"), noise_model=noise()),
    "RandomPhaseRetrieval": lambda n: P.RandomPhaseRetrieval(
        2 * n, (3, n, n), channelwise=True, rng=generator(), noise_model=noise()
    ),
    "StructuredRandomPhaseRetrieval": lambda n: P.StructuredRandomPhaseRetrieval(
        (3, n, n), (3, 2 * n, n), n_layers=2, noise_model=noise()
    ),
    "Ptychography": lambda n: P.Ptychography((3, n, n), noise_model=noise()),
    "Haze": lambda n: P.Haze(),
    "SinglePhotonLidar": lambda n: P.SinglePhotonLidar(),
    "SpatialUnwrapping": lambda n: P.SpatialUnwrapping(noise_model=noise()),
    "Scattering": lambda n: P.Scattering(n, torch.ones(2, 1, 8), torch.ones(2, 1)),
    "PhysicsCropper": lambda n: P.PhysicsCropper(P.Blur(blur_filter(), padding="valid"), (4, 4)),
    **{f"Denoising, {name}": (lambda n, make=make: P.Denoising(make())) for name, make in NOISES.items()},
}


def images_of(data: str, count: int, size: int = SIZE) -> Tensor:
    return ImageDataset([data], size, limit=count).batch(range(count))


def psnr(x: Tensor, truth: Tensor) -> float:
    return float(-10 * (x.clamp(0, 1) - truth).square().flatten(1).mean(1).log10().mean())


def theirs_with_us(pipe: FlashPipeline, name: str, x: Tensor, **settings: Any) -> str:
    """Give the cells of a case: dB of its A_dagger, of what the networks see, restored, and steps; or why not."""
    torch.manual_seed(0)
    try:
        physics = CASES[name](x.shape[-1])
    except ImportError as error:
        return f"not tried: DeepInverse needs a further package ({brief(error)})"
    except Exception as error:  # arguments that this version does not take
        return f"not made: {type(error).__name__}: {brief(error)}"
    try:
        y = physics(x)
    except Exception as error:  # whatever it says of x
        return f"its A takes no RGB images: {type(error).__name__}: {brief(error)}"
    try:
        result = pipe(y, physics, solver="latent-dps", seed=0, **settings)
        seen = pipe.check(Problem(*flattened(y, physics))).image
    except FlashDiffusionError as error:
        return f"refused: {error}"
    try:
        inverse = f"{psnr(physics.A_dagger(y), x):.1f}"
    except Exception:  # not every operator of theirs has one
        inverse = "-"
    steps = sum(result.nfe.tolist()) / len(x)
    return f"{inverse} | {psnr(seen, x):.1f} | **{psnr(result.images, x):.1f}** | {steps:.0f}"


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of images or .tar shard")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--only", default="", help="cases whose names match this regular expression")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    pipe = FlashPipeline.from_pretrained()
    x = images_of(options.data, options.images)
    print(f"{len(x)} images of {SIZE} x {SIZE}, DeepInverse {version('deepinv')}, torch {version('torch')}\n")
    print("| physics | A_dagger, dB | seen as, dB | restored, dB | steps |\n|---|---|---|---|---|")
    for name in CASES:
        if re.search(options.only, name):
            cells = theirs_with_us(pipe, name, x)
            print(f"| {name} | {cells} |" if "|" in cells else f"| {name} | {cells} | | | |", flush=True)


if __name__ == "__main__":
    main()
