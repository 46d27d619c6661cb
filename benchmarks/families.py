"""Families of latent diffusion models at their published size: parameters, GFLOP, and what a gradient keeps in memory.

Nothing is downloaded and nothing allocated: networks of the published configs, on torch's meta device. With
`--measured SIDE` gradients are also taken, of random weights, for one image of that side, and timed.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderTiny,
    DDPMScheduler,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from torch import Tensor, nn

from flashdiffusion.data import write_json
from flashdiffusion.jobs.records import environment
from flashdiffusion.metrics.flops import count_gflop
from flashdiffusion.priors import DiffusersAutoencoder, LatentPrior
from flashdiffusion.priors.denoisers import FAMILIES, Conditions, Denoiser
from flashdiffusion.priors.memory import enable_gradient_checkpointing
from measure import synchronize

KL = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
KL |= {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
XL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD2 = {"sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20)}
SD3 = {"sample_size": 128, "in_channels": 16, "attention_head_dim": 64, "pooled_projection_dim": 2048}
LDM = {
    "sample_size": 64,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (224, 448, 672, 896),
    "down_block_types": ("DownBlock2D", *["AttnDownBlock2D"] * 3),
    "up_block_types": (*["AttnUpBlock2D"] * 3, "UpBlock2D"),
    "attention_head_dim": 32,
}
DC = {
    "encoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "decoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "downsample_block_type": "Conv",
    "upsample_block_type": "interpolate",
}

ROUNDS = 2

Make = Callable[[], Any]
# By name: autoencoder, denoiser, scheduler, shapes of what it is told, side of its images in pixels.
MODELS: dict[str, tuple[Make, Make, Any, list[tuple[int, ...]], int]] = {
    "CompVis/ldm-celebahq-256": (
        lambda: VQModel(**{**KL, "block_out_channels": (128, 256, 512)} | _three(), latent_channels=3),
        lambda: UNet2DModel(**LDM),
        DDPMScheduler,
        [],
        256,
    ),
    "Stable Diffusion 1.5": (
        lambda: AutoencoderKL(**KL, latent_channels=4),
        lambda: UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        DDPMScheduler,
        [(77, 768)],
        512,
    ),
    "Stable Diffusion 2.1": (
        lambda: AutoencoderKL(**KL, latent_channels=4),
        lambda: UNet2DConditionModel(**SD2, use_linear_projection=True),
        DDPMScheduler,
        [(77, 1024)],
        768,
    ),
    "Stable Diffusion XL": (
        lambda: AutoencoderKL(**KL, latent_channels=4),
        lambda: UNet2DConditionModel(**XL),
        DDPMScheduler,
        [(77, 2048), (1280,)],
        1024,
    ),
    "DiT-XL/2": (
        lambda: AutoencoderKL(**KL, latent_channels=4),
        lambda: DiTTransformer2DModel(out_channels=8, attention_bias=True),
        DDPMScheduler,
        [],
        256,
    ),
    "Stable Diffusion 3 medium": (
        lambda: AutoencoderKL(**KL, latent_channels=16),
        lambda: SD3Transformer2DModel(
            **SD3, num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=192
        ),
        FlowMatchEulerDiscreteScheduler,
        [(333, 4096), (2048,)],
        1024,
    ),
    "Stable Diffusion 3.5 large": (
        lambda: AutoencoderKL(**KL, latent_channels=16),
        lambda: SD3Transformer2DModel(
            **SD3,
            num_layers=38,
            num_attention_heads=38,
            caption_projection_dim=2432,
            pos_embed_max_size=192,
            qk_norm="rms_norm",
        ),
        FlowMatchEulerDiscreteScheduler,
        [(333, 4096), (2048,)],
        1024,
    ),
}
# Name, network, side of the image.
AUTOENCODERS: dict[str, tuple[Make, int]] = {
    "AutoencoderKL of 4 channels (Stable Diffusion)": (lambda: AutoencoderKL(**KL, latent_channels=4), 512),
    "AutoencoderKL of 16 channels (Stable Diffusion 3)": (lambda: AutoencoderKL(**KL, latent_channels=16), 512),
    "AutoencoderTiny (TAESD)": (lambda: AutoencoderTiny(), 512),
    "AutoencoderDC of 32 channels (Sana)": (lambda: AutoencoderDC(**DC), 512),
}


def _three() -> dict[str, Any]:
    return {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}


def _told(network: nn.Module, shapes: list[tuple[int, ...]], device: str) -> Denoiser:
    """A family's denoiser of a network, told text of these shapes in place of encoded text, or the null class."""
    denoiser = FAMILIES[type(network).__name__](network)
    for n, shape in enumerate(shapes):
        denoiser.register_buffer(f"told_{n}", torch.zeros(1, *shape, device=device), persistent=False)
    denoiser._told = len(shapes)
    if not shapes:
        denoiser.set_conditions(Conditions())
    return denoiser


def prior_of(name: str, device: str) -> LatentPrior:
    """A model at its published size."""
    autoencoder, denoiser, scheduler, shapes, _ = MODELS[name]
    with torch.device(device):
        networks = autoencoder(), denoiser()
    with torch.device("cpu"):
        prior = LatentPrior(DiffusersAutoencoder(networks[0]), _told(networks[1], shapes, device), scheduler())
    return prior.to(device)


def gradient(prior: LatentPrior, side: int, kept: list[int] | None = None) -> None:
    """The gradient of ‖D(ẑ0(z))‖² in z, that of a step of Latent-DPS; `kept` gets the bytes that it keeps."""
    z = torch.randn(1, *prior.latent_shape((side, side)), device=prior.device).requires_grad_()
    own = {one.untyped_storage()._cdata for one in (*prior.parameters(), *prior.buffers())}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            seen[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = prior.decode(prior.denoise(z, torch.tensor([500], device=z.device))).square().sum()
    if kept is not None:
        kept.append(sum(seen.values()))
    torch.autograd.grad(loss, z)


def counted(name: str) -> dict[str, Any]:
    """Parameters, GFLOP and bytes of a model, on the meta device."""
    side = MODELS[name][-1]
    prior = prior_of(name, "meta")
    z = torch.zeros(1, *prior.latent_shape((side, side)), device="meta")
    with torch.no_grad():
        denoise = count_gflop(lambda: prior.denoise(z, torch.zeros(1, dtype=torch.int64, device="meta")))
        decode = count_gflop(lambda: prior.decode(z))
    figures: dict[str, Any] = {
        "side": side,
        "denoiser": _count(prior.denoiser),
        "autoencoder": _count(prior.autoencoder),
        "denoise_gflop": denoise,
        "decode_gflop": decode,
    }
    for kind in ("plain", "checkpointed"):
        kept: list[int] = []
        figures[f"{kind}_gflop"] = count_gflop(lambda kept=kept: gradient(prior, side, kept))
        figures[f"{kind}_gib"] = kept[0] / 2**30
        if kind == "plain":
            enable_gradient_checkpointing(prior)
    return figures


def coded(name: str) -> dict[str, Any]:
    """Parameters and GFLOP of an autoencoder, on the meta device."""
    make, side = AUTOENCODERS[name]
    with torch.device("meta"):
        model = make()
    autoencoder = DiffusersAutoencoder(model).to("meta")
    x = torch.zeros(1, 3, side, side, device="meta")
    with torch.no_grad():
        encode = count_gflop(lambda: autoencoder.encode(x))
        decode = count_gflop(lambda: autoencoder.decode(autoencoder.encode(x))) - encode
    shape = {"channels": autoencoder.channels, "factor": autoencoder.factor}
    return {"side": side, **shape, "parameters": _count(model), "encode_gflop": encode, "decode_gflop": decode}


def measured(name: str, side: int, device: str) -> dict[str, Any]:
    """Processor seconds of a gradient of random weights, plain and checkpointed, in turn; the first is not counted."""
    prior = prior_of(name, device)
    seconds: dict[str, list[float]] = {"plain": [], "checkpointed": []}
    for _ in range(ROUNDS + 1):
        for kind, own in seconds.items():
            if kind == "checkpointed":
                enable_gradient_checkpointing(prior)
            start = time.process_time()
            gradient(prior, side)
            synchronize(torch.device(device))
            own.append(time.process_time() - start)
        for network in (prior.denoiser, prior.autoencoder.model):
            network.disable_gradient_checkpointing()
    return {"model": name, "side": side} | {kind: min(own[1:]) for kind, own in seconds.items()}


def _count(network: nn.Module) -> int:
    return sum(one.numel() for one in network.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", choices=MODELS, action="append", help="these alone; repeat for more")
    parser.add_argument("--measured", type=int, metavar="SIDE", help="take gradients of the first model, too")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    names = given.model or list(MODELS)
    results: dict[str, Any] = {"environment": environment(torch.device(given.device)), "models": {}, "autoencoders": {}}
    for name in names:
        results["models"][name] = counted(name)
        print(name, results["models"][name], flush=True)
    for name in AUTOENCODERS if given.model is None else ():
        results["autoencoders"][name] = coded(name)
        print(name, results["autoencoders"][name], flush=True)
    if given.measured:
        results["measured"] = measured(names[0], given.measured, given.device)
        print(results["measured"])
    write_json(given.out, results)


if __name__ == "__main__":
    main()
