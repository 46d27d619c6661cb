"""Tiny models of every family, with random weights, as folders in the layout of diffusers' pipelines."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DDPMScheduler,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKENS = 8  # of a prompt, at most
WIDTH = 8  # of every text encoder
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
KL = {
    "block_out_channels": [8, 8],
    "norm_num_groups": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "scaling_factor": 3.0,  # gives latents of a photograph a spread near 1
}
TEXT_UNET = {
    "sample_size": 8,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 2,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
}
UNET = {
    "sample_size": 8,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D"] * 2,
    "up_block_types": ["UpBlock2D"] * 2,
    "add_attention": False,
}
DIT = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 2, "sample_size": 8, "norm_num_groups": 1}


def write_tokenizer(folder: Path) -> int:
    """Write CLIP's tokenizer of letters alone; returns its number of tokens, of which the last two start and end."""
    folder.mkdir(parents=True)
    start, end = "<|startoftext|>", "<|endoftext|>"
    vocabulary = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), start, end]
    (folder / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(vocabulary)


def write_text(folder: Path, name: str = "", projection: bool = False, width: int = WIDTH) -> None:
    """Write a text encoder with its tokenizer into `text_encoder{name}` and `tokenizer{name}`."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, logging

    count = write_tokenizer(folder / f"tokenizer{name}")
    config = CLIPTextConfig(
        vocab_size=count,
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=width,
        bos_token_id=count - 2,
        eos_token_id=count - 1,
        pad_token_id=count - 1,
    )
    logging.disable_progress_bar()
    model = (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)
    for parameter in model.parameters():  # as it comes it hardly depends on its text
        parameter.data.normal_(0, 0.5)
    model.save_pretrained(folder / f"text_encoder{name}")


def write_t5(folder: Path, width: int) -> None:
    """Write T5's encoder and its tokenizer of words as SD3's third."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import T5Config, T5EncoderModel

    words = ["<pad>", "</s>", "<unk>", *(f"▁{letter}" for letter in LETTERS), *LETTERS]
    tokenizer = Tokenizer(models.Unigram([(word, -float(n)) for n, word in enumerate(words)], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    (folder / "tokenizer_3").mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer_3" / "tokenizer.json"))
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "T5TokenizerFast", "extra_ids": 0, "model_max_length": 16, **special}
    (folder / "tokenizer_3" / "tokenizer_config.json").write_text(json.dumps(config))
    shape = {"d_model": width, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    T5EncoderModel(T5Config(vocab_size=len(words), **shape)).save_pretrained(folder / "text_encoder_3")


def _ldm(folder: Path) -> None:
    VQModel(**{**KL, "latent_channels": 4}, num_vq_embeddings=16).save_pretrained(folder / "vqvae")
    UNet2DModel(in_channels=4, out_channels=4, **UNET).save_pretrained(folder / "unet")
    DDIMScheduler(**BETAS, clip_sample=False).save_pretrained(folder / "scheduler")


def _sd1(folder: Path) -> None:
    AutoencoderKL(**KL, latent_channels=4).save_pretrained(folder / "vae")
    UNet2DConditionModel(**TEXT_UNET).save_pretrained(folder / "unet")
    PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1).save_pretrained(folder / "scheduler")
    write_text(folder)


def _sd2(folder: Path) -> None:
    """v-prediction, with zero terminal SNR."""
    AutoencoderKL(**KL, latent_channels=4).save_pretrained(folder / "vae")
    UNet2DConditionModel(**TEXT_UNET, use_linear_projection=True).save_pretrained(folder / "unet")
    scheduler = DDIMScheduler(**BETAS, prediction_type="v_prediction", rescale_betas_zero_snr=True, clip_sample=False)
    scheduler.save_pretrained(folder / "scheduler")
    write_text(folder)


def _sdxl(folder: Path) -> None:
    AutoencoderKL(**KL, latent_channels=4, force_upcast=True).save_pretrained(folder / "vae")
    more = {"addition_embed_type": "text_time", "addition_time_embed_dim": 2}
    more |= {"projection_class_embeddings_input_dim": 6 * 2 + WIDTH, "cross_attention_dim": 2 * WIDTH}
    UNet2DConditionModel(**(TEXT_UNET | more)).save_pretrained(folder / "unet")
    DDPMScheduler(**BETAS, clip_sample=False).save_pretrained(folder / "scheduler")
    write_text(folder)
    write_text(folder, "_2", projection=True)


def _dit(folder: Path) -> None:
    AutoencoderKL(**KL, latent_channels=4).save_pretrained(folder / "vae")
    model = DiTTransformer2DModel(**DIT, in_channels=4, out_channels=8, num_embeds_ada_norm=10)
    for parameter in model.parameters():  # some are zeros
        parameter.data.normal_(0, 0.2)
    model.save_pretrained(folder / "transformer")
    DDIMScheduler(clip_sample=False).save_pretrained(folder / "scheduler")


def _sd3(folder: Path) -> None:
    kl = {**KL, "shift_factor": 0.06, "use_quant_conv": False, "use_post_quant_conv": False}
    AutoencoderKL(**kl, latent_channels=16).save_pretrained(folder / "vae")
    model = SD3Transformer2DModel(
        sample_size=8,
        num_layers=2,
        attention_head_dim=4,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=8,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16,
    )
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.normal_(0, 0.2)
    model.save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    write_text(folder, "", projection=True)
    write_text(folder, "_2", projection=True)
    write_t5(folder, 2 * WIDTH)


_MAKERS: dict[str, Callable[[Path], None]] = {
    "ldm": _ldm,
    "sd1": _sd1,
    "sd2": _sd2,
    "sdxl": _sdxl,
    "dit": _dit,
    "sd3": _sd3,
}
FAMILIES = tuple(_MAKERS)
PIPELINES = {
    "ldm": "LDMPipeline",
    "sd1": "StableDiffusionPipeline",
    "sd2": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "dit": "DiTPipeline",
    "sd3": "StableDiffusion3Pipeline",
}


def write_family(name: str, folder: Path) -> Path:
    """Write the model of a family, with parts that this library has no use for; the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _MAKERS[name](folder)
    index = {"_class_name": PIPELINES[name], "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    if name == "sdxl":
        index["force_zeros_for_empty_prompt"] = True
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "config.json").write_text("{}")
    return folder


AUTOENCODERS = ("kl", "kl, shifted", "kl, per channel", "vq", "tiny", "dc")


def autoencoders() -> dict[str, torch.nn.Module]:
    """Networks of every kind of autoencoder, of 4, 8, 16 and 32 channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blocks = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
        made = {
            "kl": AutoencoderKL(**KL, latent_channels=4),
            "kl, shifted": AutoencoderKL(**{**KL, "shift_factor": 0.1}, latent_channels=16, use_quant_conv=False),
            "kl, per channel": AutoencoderKL(**KL, latent_channels=4, latents_mean=[0.1] * 4, latents_std=[2.0] * 4),
            "vq": VQModel(**{**KL, "latent_channels": 8}, num_vq_embeddings=16),
            "tiny": AutoencoderTiny(**blocks, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)),
            "dc": AutoencoderDC(
                encoder_block_out_channels=(8, 32),
                decoder_block_out_channels=(8, 32),
                latent_channels=32,
                attention_head_dim=4,
                encoder_block_types=("ResBlock", "EfficientViTBlock"),
                decoder_block_types=("ResBlock", "EfficientViTBlock"),
                encoder_layers_per_block=(1, 1),
                decoder_layers_per_block=(1, 1),
                encoder_qkv_multiscales=((), (5,)),
                decoder_qkv_multiscales=((), (5,)),
                scaling_factor=0.4,
            ),
        }
    return {name: model.eval() for name, model in made.items()}
