"""The published models as plain functions of their own state dicts: a reference that shares nothing with diffusers.

Also the small random state dicts in exactly those layouts. Written from the papers' and repositories' descriptions.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Tensors = dict[str, Tensor]
GROUPS = 32


# -- layers ---------------------------------------------------------------------------------------------


def conv(t: Tensors, name: str, x: Tensor, padding: int = 1, stride: int = 1) -> Tensor:
    return F.conv2d(x, t[f"{name}.weight"], t[f"{name}.bias"], stride, padding)


def norm(t: Tensors, name: str, x: Tensor, eps: float) -> Tensor:
    return F.group_norm(x, GROUPS, t[f"{name}.weight"], t[f"{name}.bias"], eps)


def linear(t: Tensors, name: str, x: Tensor) -> Tensor:
    return F.linear(x, t[f"{name}.weight"], t[f"{name}.bias"])


def upsample(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


# -- CompVis first stage --------------------------------------------------------------------------------

EPS_FIRST = 1e-6


def _first_resnet(t: Tensors, name: str, x: Tensor) -> Tensor:
    h = conv(t, f"{name}.conv1", F.silu(norm(t, f"{name}.norm1", x, EPS_FIRST)))
    h = conv(t, f"{name}.conv2", F.silu(norm(t, f"{name}.norm2", h, EPS_FIRST)))
    if f"{name}.nin_shortcut.weight" in t:
        x = conv(t, f"{name}.nin_shortcut", x, padding=0)
    return x + h


def _first_attention(t: Tensors, name: str, x: Tensor) -> Tensor:
    b, c, height, width = x.shape
    h = norm(t, f"{name}.norm", x, EPS_FIRST)
    q, k, v = (conv(t, f"{name}.{part}", h, padding=0).flatten(2) for part in "qkv")
    weight = (q.transpose(1, 2) @ k / math.sqrt(c)).softmax(dim=2)  # (b, of q, of k)
    h = (v @ weight.transpose(1, 2)).view(b, c, height, width)
    return x + conv(t, f"{name}.proj_out", h, padding=0)


def _first_middle(t: Tensors, x: Tensor) -> Tensor:
    x = _first_resnet(t, "mid.block_1", x)
    if "mid.attn_1.q.weight" in t:
        x = _first_attention(t, "mid.attn_1", x)
    return _first_resnet(t, "mid.block_2", x)


def _level(t: Tensors, name: str, blocks: int, x: Tensor) -> Tensor:
    for j in range(blocks):
        x = _first_resnet(t, f"{name}.block.{j}", x)
        if f"{name}.attn.{j}.q.weight" in t:
            x = _first_attention(t, f"{name}.attn.{j}", x)
    return x


def under(t: Tensors, prefix: str) -> Tensors:
    """The tensors below a prefix, by their names without it."""
    return {k.removeprefix(prefix): v for k, v in t.items() if k.startswith(prefix)}


def encoder(t: Tensors, x: Tensor, levels: int, blocks: int) -> Tensor:
    x = conv(t, "conv_in", x)
    for i in range(levels):
        x = _level(t, f"down.{i}", blocks, x)
        if i < levels - 1:
            x = conv(t, f"down.{i}.downsample.conv", F.pad(x, (0, 1, 0, 1)), padding=0, stride=2)
    return conv(t, "conv_out", F.silu(norm(t, "norm_out", _first_middle(t, x), EPS_FIRST)))


def decoder(t: Tensors, z: Tensor, levels: int, blocks: int) -> Tensor:
    x = _first_middle(t, conv(t, "conv_in", z))
    for i in reversed(range(levels)):
        x = _level(t, f"up.{i}", blocks + 1, x)
        if i > 0:
            x = conv(t, f"up.{i}.upsample.conv", upsample(x))
    return conv(t, "conv_out", F.silu(norm(t, "norm_out", x, EPS_FIRST)))


def encode(t: Tensors, x: Tensor, levels: int, blocks: int) -> Tensor:
    """Images in [-1, 1] -> quant_conv's output: VQ latents before quantisation, or KL moments."""
    return conv(t, "quant_conv", encoder(under(t, "encoder."), x, levels, blocks), padding=0)


def quantise(t: Tensors, z: Tensor) -> Tensor:
    """The nearest codebook entry of every place."""
    book = t["quantize.embedding.weight"]
    flat = z.permute(0, 2, 3, 1).reshape(-1, book.shape[1])
    nearest = (flat[:, None] - book[None]).square().sum(dim=2).argmin(dim=1)
    return book[nearest].view(z.shape[0], z.shape[2], z.shape[3], -1).permute(0, 3, 1, 2)


def decode(t: Tensors, z: Tensor, levels: int, blocks: int) -> Tensor:
    """Latents -> images in [-1, 1], through the codebook if there is one."""
    z = quantise(t, z) if "quantize.embedding.weight" in t else z
    return decoder(under(t, "decoder."), conv(t, "post_quant_conv", z, padding=0), levels, blocks)


# -- guided-diffusion UNet ------------------------------------------------------------------------------

EPS_UNET = 1e-5


def _embed_time(t: Tensors, i: Tensor) -> Tensor:
    dim = t["time_embed.0.weight"].shape[1]
    frequencies = torch.exp(-math.log(10000) * torch.arange(dim // 2) / (dim // 2))
    angles = i[:, None].float() * frequencies
    return linear(t, "time_embed.2", F.silu(linear(t, "time_embed.0", torch.cat([angles.cos(), angles.sin()], dim=1))))


def _unet_resnet(t: Tensors, name: str, x: Tensor, emb: Tensor, resample: str | None = None) -> Tensor:
    h = F.silu(norm(t, f"{name}.in_layers.0", x, EPS_UNET))
    if resample == "up":
        h, x = upsample(h), upsample(x)
    if resample == "down":
        h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
    h = conv(t, f"{name}.in_layers.2", h)
    e = linear(t, f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None]
    if e.shape[1] == 2 * h.shape[1]:
        scale, shift = e.chunk(2, dim=1)
        h = norm(t, f"{name}.out_layers.0", h, EPS_UNET) * (1 + scale) + shift
    else:
        h = norm(t, f"{name}.out_layers.0", h + e, EPS_UNET)
    h = conv(t, f"{name}.out_layers.3", F.silu(h))
    if f"{name}.skip_connection.weight" in t:
        x = conv(t, f"{name}.skip_connection", x, padding=0)
    return x + h


def _unet_attention(t: Tensors, name: str, x: Tensor, head: int, new_order: bool) -> Tensor:
    b, c, height, width = x.shape
    h = norm(t, f"{name}.norm", x, EPS_UNET).flatten(2)
    qkv = F.conv1d(h, t[f"{name}.qkv.weight"], t[f"{name}.qkv.bias"])
    if new_order:
        q, k, v = (part.reshape(b * (c // head), head, -1) for part in qkv.chunk(3, dim=1))
    else:
        q, k, v = qkv.reshape(b * (c // head), 3 * head, -1).split(head, dim=1)
    weight = torch.einsum("bct,bcs->bts", q, k).div(math.sqrt(head)).softmax(dim=-1)
    h = torch.einsum("bts,bcs->bct", weight, v).reshape(b, c, -1)
    h = F.conv1d(h, t[f"{name}.proj_out.weight"], t[f"{name}.proj_out.bias"])
    return x + h.view(b, c, height, width)


def unet(t: Tensors, x: Tensor, i: Tensor, head: int, new_order: bool = False, updown: bool = False) -> Tensor:
    """The network's raw output at timesteps i in 0..N-1."""
    emb = _embed_time(t, i)
    widest = [
        max((int(k.split(".")[1]) for k in t if k.startswith(f"{side}_blocks.")), default=0)
        for side in ("input", "output")
    ]
    stack, per_level = [], _blocks_per_level(t)

    def block(name: str, x: Tensor, first_resample: str | None = None) -> Tensor:
        for place in range(3):
            layer = f"{name}.{place}"
            if f"{layer}.qkv.weight" in t:
                x = _unet_attention(t, layer, x, head, new_order)
            elif f"{layer}.op.weight" in t:
                x = conv(t, f"{layer}.op", x, stride=2)
            elif f"{layer}.conv.weight" in t:
                x = conv(t, f"{layer}.conv", upsample(x))
            elif f"{layer}.in_layers.0.weight" in t:
                x = _unet_resnet(t, layer, x, emb, first_resample if place == 0 else "up")
            elif f"{layer}.weight" in t:
                x = conv(t, layer, x)
        return x

    for n in range(widest[0] + 1):
        x = block(f"input_blocks.{n}", x, "down" if updown and n > 0 and n % per_level == 0 else None)
        stack.append(x)
    x = _unet_resnet(t, "middle_block.0", x, emb)
    x = _unet_attention(t, "middle_block.1", x, head, new_order)
    x = _unet_resnet(t, "middle_block.2", x, emb)
    for n in range(widest[1] + 1):
        x = block(f"output_blocks.{n}", torch.cat([x, stack.pop()], dim=1))
    return conv(t, "out.2", F.silu(norm(t, "out.0", x, EPS_UNET)))


def _blocks_per_level(t: Tensors) -> int:
    """Residual blocks of a level plus one: the place of the first upsampling in the output blocks, plus one."""
    n = 0
    while f"output_blocks.{n}.0.in_layers.0.weight" in t:
        if any(f"output_blocks.{n}.{p}.{kind}.weight" in t for p in (1, 2) for kind in ("conv", "in_layers.2")):
            break
        n += 1
    return n + 1


# -- severity encoder of the paper ----------------------------------------------------------------------


def severity(t: Tensors, y: Tensor, levels: int, blocks: int) -> tuple[Tensor, Tensor]:
    """Measurements in [-1, 1] -> unscaled ẑ and σ̂²."""
    z = encode(t, y, levels, blocks)
    return z, conv(t, "std_conv", z, padding=0).square().flatten(1).mean(dim=1)


# -- small random checkpoints ---------------------------------------------------------------------------


class Maker:
    """Random tensors under a layout's names; norms away from 1 and 0, so that a swapped one shows."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.tensors: Tensors = {}

    def put(self, name: str, *shape: int, scale: float = 1.0, mean: float = 0.0) -> None:
        self.tensors[name] = mean + scale * torch.randn(shape, generator=self.generator)

    def conv(self, name: str, into: int, out: int, *kernel: int) -> None:
        fan = into * math.prod(kernel)
        self.put(f"{name}.weight", out, into, *kernel, scale=fan**-0.5)
        self.put(f"{name}.bias", out, scale=0.1)

    def norm(self, name: str, channels: int) -> None:
        self.put(f"{name}.weight", channels, scale=0.2, mean=1.0)
        self.put(f"{name}.bias", channels, scale=0.2)


def make_first_stage(
    widths: tuple[int, ...] = (32, 64, 64),
    blocks: int = 1,
    z: int = 3,
    embed: int = 3,
    codebook: int | None = 40,
    attention: tuple[int, ...] = (),
    parts: tuple[str, ...] = ("encoder", "decoder", "quant_conv", "post_quant_conv"),
    seed: int = 0,
) -> Tensors:
    """A VQModelInterface, or an AutoencoderKL if there is no codebook; `attention` names levels."""
    m, last = Maker(seed), len(widths) - 1

    def resnet(name: str, into: int, out: int) -> None:
        m.norm(f"{name}.norm1", into)
        m.conv(f"{name}.conv1", into, out, 3, 3)
        m.norm(f"{name}.norm2", out)
        m.conv(f"{name}.conv2", out, out, 3, 3)
        if into != out:
            m.conv(f"{name}.nin_shortcut", into, out, 1, 1)

    def attend(name: str, width: int) -> None:
        m.norm(f"{name}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            m.conv(f"{name}.{part}", width, width, 1, 1)

    def middle(name: str) -> None:
        resnet(f"{name}.mid.block_1", widths[-1], widths[-1])
        attend(f"{name}.mid.attn_1", widths[-1])
        resnet(f"{name}.mid.block_2", widths[-1], widths[-1])

    moments = z if codebook else 2 * z
    if "encoder" in parts:
        m.conv("encoder.conv_in", 3, widths[0], 3, 3)
        width = widths[0]
        for i, out in enumerate(widths):
            for j in range(blocks):
                resnet(f"encoder.down.{i}.block.{j}", width, out)
                width = out
                if i in attention:
                    attend(f"encoder.down.{i}.attn.{j}", out)
            if i < last:
                m.conv(f"encoder.down.{i}.downsample.conv", out, out, 3, 3)
        middle("encoder")
        m.norm("encoder.norm_out", widths[-1])
        m.conv("encoder.conv_out", widths[-1], moments, 3, 3)
    if "decoder" in parts:
        m.conv("decoder.conv_in", z, widths[-1], 3, 3)
        middle("decoder")
        width = widths[-1]
        for i in reversed(range(len(widths))):
            for j in range(blocks + 1):
                resnet(f"decoder.up.{i}.block.{j}", width, widths[i])
                width = widths[i]
                if i in attention:
                    attend(f"decoder.up.{i}.attn.{j}", width)
            if i > 0:
                m.conv(f"decoder.up.{i}.upsample.conv", width, width, 3, 3)
        m.norm("decoder.norm_out", widths[0])
        m.conv("decoder.conv_out", widths[0], 3, 3, 3)
    if "quant_conv" in parts:
        m.conv("quant_conv", moments, embed if codebook else 2 * embed, 1, 1)
    if "post_quant_conv" in parts:
        m.conv("post_quant_conv", embed, z, 1, 1)
        if codebook:
            m.put("quantize.embedding.weight", codebook, embed)
    return m.tensors


def make_severity(seed: int = 5, **shape: Any) -> Tensors:
    """A published severity encoder over such a VQ first stage."""
    t = make_first_stage(seed=seed, parts=("encoder", "quant_conv"), **shape)
    m = Maker(seed + 1)
    channels = t["quant_conv.weight"].shape[0]
    m.conv("std_conv", channels, channels, 1, 1)
    return t | m.tensors


def make_unet(
    channels: int = 3,
    out: int = 3,
    base: int = 32,
    multiples: tuple[int, ...] = (1, 2),
    blocks: int = 2,
    attention: tuple[int, ...] = (1,),
    scale_shift: bool = False,
    updown: bool = False,
    seed: int = 1,
) -> Tensors:
    """A guided-diffusion UNet; `attention` names levels."""
    m, emb = Maker(seed), 4 * base

    def resnet(name: str, into: int, width: int) -> None:
        m.norm(f"{name}.in_layers.0", into)
        m.conv(f"{name}.in_layers.2", into, width, 3, 3)
        m.conv(f"{name}.emb_layers.1", emb, 2 * width if scale_shift else width)
        m.norm(f"{name}.out_layers.0", width)
        m.conv(f"{name}.out_layers.3", width, width, 3, 3)
        if into != width:
            m.conv(f"{name}.skip_connection", into, width, 1, 1)

    def attend(name: str, width: int) -> None:
        m.norm(f"{name}.norm", width)
        m.conv(f"{name}.qkv", width, 3 * width, 1)
        m.conv(f"{name}.proj_out", width, width, 1)

    m.conv("time_embed.0", base, emb)
    m.conv("time_embed.2", emb, emb)
    m.conv("input_blocks.0.0", channels, base, 3, 3)
    stack, width, n = [base], base, 1
    for i, multiple in enumerate(multiples):
        for _ in range(blocks):
            resnet(f"input_blocks.{n}.0", width, base * multiple)
            width = base * multiple
            if i in attention:
                attend(f"input_blocks.{n}.1", width)
            stack.append(width)
            n += 1
        if i < len(multiples) - 1:
            if updown:
                resnet(f"input_blocks.{n}.0", width, width)
            else:
                m.conv(f"input_blocks.{n}.0.op", width, width, 3, 3)
            stack.append(width)
            n += 1
    resnet("middle_block.0", width, width)
    attend("middle_block.1", width)
    resnet("middle_block.2", width, width)
    n = 0
    for i, multiple in reversed(list(enumerate(multiples))):
        for j in range(blocks + 1):
            resnet(f"output_blocks.{n}.0", width + stack.pop(), base * multiple)
            width = base * multiple
            if i in attention:
                attend(f"output_blocks.{n}.1", width)
            if i > 0 and j == blocks:
                place = f"output_blocks.{n}.{2 if i in attention else 1}"
                if updown:
                    resnet(place, width, width)
                else:
                    m.conv(f"{place}.conv", width, width, 3, 3)
            n += 1
    m.norm("out.0", width)
    m.conv("out.2", width, out, 3, 3)
    return m.tensors


def flat_average(t: Tensors) -> Tensors:
    """LitEma's buffers of the diffusion wrapper: names without dots."""
    average = {"model_ema." + f"diffusion_model.{name}".replace(".", ""): value for name, value in t.items()}
    return average | {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}


def make_schedule(start: float = 0.0015, end: float = 0.0195, steps: int = 1000) -> Tensors:
    """The buffers of the schedule that a latent-diffusion checkpoint holds."""
    betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    abar = (1 - betas).cumprod(dim=0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    variance = betas * (1 - before) / (1 - abar)
    buffers = {
        "betas": betas,
        "alphas_cumprod": abar,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": abar.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - abar).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - abar).log(),
        "sqrt_recip_alphas_cumprod": (1 / abar).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / abar - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": betas * before.sqrt() / (1 - abar),
        "posterior_mean_coef2": (1 - before) * (1 - betas).sqrt() / (1 - abar),
    }
    return {name: value.float() for name, value in buffers.items()}


def ldm_config(first: Tensors, unet: Tensors, **model: object) -> dict:
    """The config.yaml of the smallest latent-diffusion checkpoint below, as CompVis writes it."""
    codebook = first.get("quantize.embedding.weight")
    stage = {
        "embed_dim": 3,
        "ddconfig": {
            "double_z": codebook is None,
            "z_channels": 3,
            "resolution": 32,
            "in_channels": 3,
            "out_ch": 3,
            "ch": 32,
            "ch_mult": [1, 2, 2],
            "num_res_blocks": 1,
            "attn_resolutions": [],
            "dropout": 0.0,
        },
        "lossconfig": {"target": "torch.nn.Identity"},
    }
    if codebook is not None:
        stage["n_embed"] = codebook.shape[0]
    kind = "AutoencoderKL" if codebook is None else "VQModelInterface"
    return {
        "model": {
            "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
            "params": {
                "linear_start": 0.0015,
                "linear_end": 0.0195,
                "timesteps": 1000,
                "image_size": 8,
                "channels": 3,
                "unet_config": {
                    "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
                    "params": {
                        "image_size": 8,
                        "in_channels": 3,
                        "out_channels": 3,
                        "model_channels": 32,
                        "attention_resolutions": [2],
                        "num_res_blocks": 2,
                        "channel_mult": [1, 2],
                        "num_head_channels": 16,
                    },
                },
                "first_stage_config": {"target": f"ldm.models.autoencoder.{kind}", "params": stage},
                "cond_stage_config": "__is_unconditional__",
                **model,
            },
        }
    }


def ldm_tensors(first: Tensors, unet: Tensors, average: Tensors | None) -> Tensors:
    """The state dict of a latent-diffusion checkpoint: `average` are the UNet's moving averages, if kept."""
    t = {f"model.diffusion_model.{k}": v for k, v in unet.items()} | make_schedule()
    t |= {f"first_stage_model.{k}": v for k, v in first.items()}
    t |= {"first_stage_model.loss.discriminator.main.0.weight": torch.zeros(2, 3)}
    return t | (flat_average(average) if average is not None else {})
