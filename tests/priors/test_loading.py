"""Models as people bring them: shards, variants, the hub's cache; and what they bring that is none, a line each."""

import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    AutoencoderOobleck,
    ConsistencyDecoderVAE,
    ControlNetModel,
    UNet2DConditionModel,
    UNet2DModel,
    UNet3DConditionModel,
)
from huggingface_hub import constants, errors
from safetensors.torch import load_file, save_file

from flashdiffusion import FlashPipeline
from flashdiffusion.errors import CheckpointError, InputError
from flashdiffusion.priors import Conditions, LatentPrior
from flashdiffusion.priors.folder import WEIGHTS, resolve_folder
from priors.tiny_families import TEXT_UNET, UNET, write_family, write_text

FP16 = WEIGHTS.replace(".", ".fp16.")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("loading")
    return {name: write_family(name, root / name) for name in ("sd1", "dit", "sdxl")}


@pytest.fixture
def sd1(sources, tmp_path):
    return shutil.copytree(sources["sd1"], tmp_path / "sd1")


@pytest.fixture
def dit(sources, tmp_path):
    return shutil.copytree(sources["dit"], tmp_path / "dit")


def _change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _same(folder, other, **options):
    ours, theirs = (LatentPrior.from_pretrained(one, **more) for one, more in ((folder, options), (other, {})))
    z, i = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 600])
    assert torch.equal(ours.denoise(z, i), theirs.denoise(z, i))


# -- as people expect ------------------------------------------------------------------------------------


def _in_shards(component, name=WEIGHTS):
    """Split the weights in two files, with their index."""
    tensors = load_file(component / WEIGHTS)
    (component / WEIGHTS).unlink()
    stem, places = name.removesuffix(".safetensors"), {}
    for n in (0, 1):
        part = {key: tensors[key] for key in sorted(tensors)[n::2]}
        file = f"{stem}-0000{n + 1}-of-00002.safetensors"
        save_file(part, component / file)
        places |= dict.fromkeys(part, file)
    (component / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return component / f"{stem}.safetensors.index.json"


def test_weights_in_shards_are_read(dit, sources):
    _in_shards(dit / "transformer")
    _same(dit, sources["dit"])


def test_shards_of_a_variant_are_read(dit, sources):
    index = _in_shards(dit / "transformer", FP16)
    with pytest.raises(CheckpointError, match="transformer has weights of variant fp16 alone; give it as variant="):
        LatentPrior.from_pretrained(dit)
    _same(dit, sources["dit"], variant="fp16")
    _change(index, weight_map={"a": "../b.safetensors"})
    with pytest.raises(CheckpointError, match=r"names '\.\./b.safetensors'; expected safetensors beside it"):
        LatentPrior.from_pretrained(dit, variant="fp16")


def test_a_shard_that_is_missing_is_named(dit):
    _in_shards(dit / "transformer")
    next((dit / "transformer").glob("*-00002-of-*")).unlink()
    with pytest.raises(CheckpointError, match=r"has no diffusion_pytorch_model-00002-of-00002\.safetensors, which"):
        LatentPrior.from_pretrained(dit)


def test_a_variant_is_taken_where_it_is_there(sd1, sources):
    unet = sd1 / "unet"
    shutil.copy(unet / WEIGHTS, unet / FP16)
    (unet / WEIGHTS).write_bytes(b"other")  # not read
    shutil.move(sd1 / "text_encoder" / "model.safetensors", sd1 / "text_encoder" / "model.fp16.safetensors")
    _same(sd1, sources["sd1"], variant="fp16")
    with pytest.raises(CheckpointError, match="has no weights of variant 'bf16'"):
        LatentPrior.from_pretrained(sd1, variant="bf16")


def test_a_model_in_a_subfolder_and_another_precision(sd1):
    pipe = FlashPipeline.from_pretrained(sd1.parent, subfolder="sd1", torch_dtype=torch.bfloat16)
    assert pipe.prior.dtype == pipe.prior.autoencoder.model.dtype == torch.bfloat16
    assert pipe.prior.abar.dtype == torch.float32
    with pytest.raises(CheckpointError, match="has no folder other; expected that of a model"):
        FlashPipeline.from_pretrained(sd1.parent, subfolder="other")
    with pytest.raises(InputError, match=r"dtype torch.float16 and torch_dtype torch.bfloat16; expected one"):
        FlashPipeline.from_pretrained(sd1, dtype=torch.float16, torch_dtype=torch.bfloat16)
    with pytest.raises(InputError, match="unknown argument 'promt'; did you mean prompt"):
        FlashPipeline.from_pretrained(sd1, promt="a cat")
    with pytest.raises(InputError, match="variant given for an embedded model"):
        FlashPipeline.from_pretrained("faces-128", variant="fp16")


def test_a_model_is_taken_from_the_hubs_cache_offline(sd1, tmp_path, monkeypatch):
    """With HF_HUB_OFFLINE=1, as all tests run."""
    assert constants.HF_HUB_OFFLINE
    commit = "0123456789abcdef0123456789abcdef01234567"
    home = tmp_path / "hub" / "models--owner--name"
    shutil.copytree(sd1, home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    pipe = FlashPipeline.from_pretrained("owner/name")
    assert pipe.source == "owner/name" and pipe.sample_size == 16
    with pytest.raises(CheckpointError, match=r"owner/other here, .*or HF_HUB_OFFLINE is set, and it is not in the"):
        FlashPipeline.from_pretrained("owner/other")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.GatedRepoError, "is gated: accept its terms at https://huggingface.co/owner/name, then give token="),
        (errors.RepositoryNotFoundError, "there is none, or it is private; expected an id owner/name, and a token="),
        (errors.RevisionNotFoundError, "it has no revision 'v2'; expected a branch, tag or commit"),
    ],
)
def test_what_the_hub_refuses_is_passed_on(error, reason, monkeypatch):
    def refuse(*_, **__):
        raise error("403", response=SimpleNamespace(headers={}, request=None, status_code=403))

    monkeypatch.setattr("flashdiffusion.priors.folder.snapshot_download", refuse)
    with pytest.raises(CheckpointError) as caught:
        resolve_folder("owner/name", "v2")
    assert reason in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("prompt", "t5"), [("", False), ("a cat", True)])
def test_only_what_is_used_is_fetched(sd1, monkeypatch, prompt, t5):
    asked = []

    def snapshot(source, revision, allow_patterns, token):
        asked.append((token, allow_patterns))
        return str(sd1)

    monkeypatch.setattr("flashdiffusion.priors.folder.snapshot_download", snapshot)
    FlashPipeline.from_pretrained("owner/name", token="secret", prompt=prompt, variant=None)
    (token, patterns), *more = asked
    assert token == "secret" and more == []
    assert f"unet/{WEIGHTS}" in patterns and f"unet/{FP16}" not in patterns
    assert "tokenizer/merges.txt" in patterns and not any("safety_checker" in one for one in patterns)
    assert ("text_encoder_3/model.safetensors" in patterns) == t5


def test_of_a_variant_the_rest_is_fetched_where_it_has_none(sd1, monkeypatch):
    asked = []

    def snapshot(source, revision, allow_patterns):
        asked.append(allow_patterns)
        return str(sd1)

    monkeypatch.setattr("flashdiffusion.priors.folder.snapshot_download", snapshot)
    (sd1 / "unet" / WEIGHTS).rename(sd1 / "unet" / FP16)
    (sd1 / "vae" / WEIGHTS).rename(sd1 / "vae" / "kept")
    with pytest.raises(CheckpointError, match="vae has no weights"):
        FlashPipeline.from_pretrained("owner/name", variant="fp16")
    assert f"unet/{FP16}" in asked[0] and f"unet/{WEIGHTS}" not in asked[0]
    assert f"vae/{WEIGHTS}" in asked[1] and not any(one.startswith("unet/") for one in asked[1])


def test_the_attention_of_old_safetensors_has_other_names(sd1, sources):
    """As in the autoencoders of Stable Diffusion 1.x."""
    path = sd1 / "vae" / WEIGHTS
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = load_file(path)
    for new, name in old.items():
        tensors = {key.replace(new, name): value for key, value in tensors.items()}
    assert any(".proj_attn." in key for key in tensors)
    save_file(tensors, path)
    _same(sd1, sources["sd1"])


# -- what is no model ------------------------------------------------------------------------------------


def _refused(source, **options):
    with pytest.raises(InputError) as caught:
        FlashPipeline.from_pretrained(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_text_model_without_its_text_encoder(sd1):
    shutil.rmtree(sd1 / "tokenizer")
    assert "has a UNet2DConditionModel, which is given text, but no folder tokenizer" in _refused(sd1)
    shutil.rmtree(sd1 / "text_encoder")
    assert "no folder text_encoder; expected the whole model" in _refused(sd1)
    with pytest.raises(InputError, match="given text, and this one has no text encoder; expected a prior that"):
        prior = LatentPrior.of(lambda z, i: z)
        LatentPrior(prior.autoencoder, UNet2DConditionModel(**TEXT_UNET), prior.scheduler)


def test_text_encoders_of_another_model(sd1):
    shutil.rmtree(sd1 / "text_encoder")
    shutil.rmtree(sd1 / "tokenizer")
    write_text(sd1, width=4)
    assert "text encoders of 4 channels beside a UNet2DConditionModel that is given 8" in _refused(sd1)
    _change(sd1 / "text_encoder" / "config.json", architectures=["BertModel"])
    assert "text_encoder holds a 'BertModel'; expected CLIPTextModel or" in _refused(sd1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"in_channels": 9},
            "9 channels in and 4 out is given an inpainting model (mask and masked image) at each step",
        ),
        ({"in_channels": 8}, "is given an image to edit (pix2pix) at each step"),
        ({"in_channels": 5}, "is given a depth map at each step"),
        ({"in_channels": 7, "num_class_embeds": 10}, "is class-conditional (num_class_embeds 10)"),
        ({"time_cond_proj_dim": 4}, "time_cond_proj_dim is 4: a UNet that is told more than text"),
        ({"in_channels": 3, "out_channels": 3}, "denoiser of 3 channels in and 3 out with an autoencoder of 4 latent"),
    ],
)
def test_a_unet_that_is_told_more(sd1, changes, reason):
    UNet2DConditionModel(**TEXT_UNET, **changes).save_pretrained(sd1 / "unet")
    assert reason in _refused(sd1)


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (ConsistencyDecoderVAE, "holds a 'ConsistencyDecoderVAE', a decoder that is a diffusion model itself"),
        (AutoencoderKLTemporalDecoder, "an autoencoder of videos"),
        (AutoencoderOobleck, "an autoencoder of sounds"),
    ],
)
def test_autoencoders_of_another_kind(sd1, cls, reason):
    _change(sd1 / "vae" / "config.json", _class_name=cls.__name__)
    assert reason in _refused(sd1)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (UNet3DConditionModel.__name__, "a model of videos"),
        ("WanTransformer3DModel", "a model of videos"),
        ("StableAudioDiTModel", "a model of sounds"),
        ("UNet1DModel", "a model of sounds"),
        (ControlNetModel.__name__, "a control net, which steers a model and is none"),
        ("FluxTransformer2DModel", "'FluxTransformer2DModel'; expected one of "),
    ],
)
def test_denoisers_of_another_kind(sd1, name, reason):
    _change(sd1 / "unet" / "config.json", _class_name=name)
    assert reason in _refused(sd1)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"pytorch_lora_weights.safetensors": ""}, "holds LoRA weights alone; expected a diffusers model folder"),
        ({"adapter_config.json": "{}"}, "holds LoRA weights alone"),
        ({"model-Q4_0.gguf": ""}, "holds a quantised (GGUF) file; expected a diffusers model folder"),
        ({"config.json": '{"_class_name": "ControlNetModel"}'}, "holds a 'ControlNetModel', a control net, which"),
        ({"config.json": '{"_class_name": "AutoencoderKL"}'}, "holds a 'AutoencoderKL' alone; expected a diffusers"),
        (
            {"model_index.json": '{"_class_name": "CogVideoXPipeline"}'},
            "('CogVideoXPipeline', a model of videos) has no",
        ),
        ({}, "has no folder denoiser, unet or transformer; expected a diffusers model folder"),
    ],
)
def test_folders_that_hold_no_model(tmp_path, files, reason):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert reason in _refused(tmp_path)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (["lora_unet_down.lora_up.weight"], "holds LoRA weights alone; expected a whole model"),
        (["unet.down_blocks.0.to_q.lora.down.weight"], "holds LoRA weights alone"),
        (["control_model.input_blocks.0.0.weight"], "is a control net"),
        (["conv.weight", "conv.weight.quant_state.bitsandbytes__nf4"], "is quantised (bitsandbytes)"),
        (["cond_stage_model.transformer.text_model.weight"], "StableDiffusionPipeline.from_single_file(FILE).save_"),
        (
            ["conditioner.embedders.0.weight"],
            "StableDiffusionXLPipeline.from_single_file(FILE).save_pretrained(FOLDER)",
        ),
        (["model.diffusion_model.joint_blocks.0.weight"], "StableDiffusion3Pipeline.from_single_file(FILE)"),
        (["down_blocks.0.weight"], "is a network of diffusers without its config"),
    ],
)
def test_files_that_hold_no_model(tmp_path, keys, reason):
    save_file({key: torch.zeros(1) for key in keys}, tmp_path / "model.safetensors")
    assert reason in _refused(tmp_path / "model.safetensors")


def test_a_quantised_network(sd1, tmp_path):
    _change(sd1 / "unet" / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    assert "unet is quantised ('bitsandbytes'); expected the model's float weights" in _refused(sd1)
    (tmp_path / "model.gguf").write_text("GGUF")
    assert "is quantised (GGUF); expected a folder" in _refused(tmp_path / "model.gguf")


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_code_in_pickled_weights_is_not_run(sd1, part, tmp_path):
    class Touch:
        def __reduce__(self):
            return (tmp_path / "trap").touch, ()

    names = {
        "unet": (WEIGHTS, "diffusion_pytorch_model.bin"),
        "text_encoder": ("model.safetensors", "pytorch_model.bin"),
    }
    old, new = names[part]
    torch.save(load_file(sd1 / part / old) | {"more": Touch()}, sd1 / part / new)
    (sd1 / part / old).unlink()
    assert "holds code" in _refused(sd1)
    assert not (tmp_path / "trap").exists()


def test_a_text_encoder_with_a_weight_missing(sd1):
    path = sd1 / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    gone = next(key for key in tensors if key.endswith("final_layer_norm.weight"))
    del tensors[gone]
    save_file(tensors, path, {"format": "pt"})
    assert "text_encoder has nothing for" in _refused(sd1)


@pytest.mark.parametrize(
    ("family", "options", "reason"),
    [
        (
            "sd1",
            {"class_label": 3},
            "class_label 3 given; this model's UNet2DConditionModel is told prompt, negative_prom",
        ),
        ("dit", {"prompt": "a cat"}, "prompt 'a cat' given; this model's DiTTransformer2DModel is told class_label"),
        ("dit", {"class_label": 10}, "class_label is 10; expected a class from 0 to 9, or None for no class"),
        ("dit", {"guidance_scale": 4}, "guidance_scale is 4 without a class_label"),
        ("sd1", {"guidance_scale": -1}, "guidance_scale is -1; expected a number from 0 to 100"),
        ("sd1", {"guidance_scale": "4"}, "guidance_scale is '4'; expected a number"),
        ("sd1", {"prompt": 3}, "prompt is 3; expected text"),
        ("sd1", {"negative_prompt": "dog"}, "negative_prompt 'dog' with guidance_scale 1, which makes no use of it"),
    ],
)
def test_conditions_that_cannot_be(sources, family, options, reason):
    assert reason in _refused(sources[family], **options)


def test_an_unconditional_model_is_told_nothing(tiny_model):
    with pytest.raises(
        InputError, match="prompt 'a cat' given; this model's UNet2DModel is told nothing: it is uncond"
    ):
        FlashPipeline.from_pretrained(tiny_model, prompt="a cat")


def test_without_transformers_one_line_says_what_to_install(sources, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "models that are given text need transformers: pip install 'flashdiffusion[text]'" in _refused(
        sources["sd1"]
    )
    FlashPipeline.from_pretrained(sources["dit"])  # others do not


def test_images_of_more_than_the_positions_are_refused(tmp_path):
    from flashdiffusion.errors import SizeError

    prior = FlashPipeline.from_pretrained(write_family("sd3", tmp_path / "sd3")).prior
    assert prior.latent_shape((64, 64)) == (16, 32, 32)
    with pytest.raises(SizeError, match=r"68 pixels .*this model has positions for 64 pixels a side; take tiles"):
        prior.latent_shape((64, 68))


def test_the_command_line_tells_a_model_its_prompt(sources, tmp_path, flash):
    import numpy as np

    np.save(tmp_path / "y.npy", np.random.default_rng(0).random((16, 16, 3), dtype=np.float32))
    given = ["restore", tmp_path / "y.npy", "--model", sources["sd1"], "--method", "latent-dps", "--steps", 2]
    given += ["--physics", "gaussian-blur:std=1", "--noise-std", 0.05, "--out", tmp_path / "out"]
    run = flash(*given, "--prompt", "a cat", "--guidance-scale", 3)
    assert run.code == 0, run.err
    about = json.loads((tmp_path / "out" / "results.json").read_text())
    assert about["conditions"] == {"prompt": "a cat", "guidance_scale": 3.0}
    run = flash(*given[:-1], tmp_path / "other", "--class-label", 3)
    assert run.code == 2 and "class_label 3 given; this model's UNet2DConditionModel is told" in run.err


def test_conditions_are_read_with_their_names_checked(tmp_path):
    (tmp_path / "conditions.json").write_text('{"promt": "a cat"}')
    with pytest.raises(InputError, match=r"unknown condition in .*'promt'; did you mean prompt"):
        Conditions.read(tmp_path)


def test_a_unet_of_another_size_of_latents_than_the_autoencoder(sd1):
    UNet2DModel(in_channels=8, out_channels=8, **UNET).save_pretrained(sd1 / "unet")
    assert "denoiser of 8 channels in and 8 out with an autoencoder of 4 latent channels; expected equal" in _refused(
        sd1
    )


def test_a_severity_encoder_is_trained_for_a_model_that_has_none(sd1, tmp_path, image_folder, flash):
    out = tmp_path / "mine"
    given = ["train", "severity", "--model", sd1, "--data", image_folder, "--config", "tiny", "--out", out]
    run = flash(*given, "--max-steps", 1)
    assert run.code == 0 and f"use it with --model {out}" in run.out, run.err
    pipe = FlashPipeline.from_pretrained(out)
    assert pipe.sample_size == 16 and pipe.severity_encoder.config.latent_channels == 4
    assert pipe.prior.family.told_0.shape == (1, 8, 8)  # with its text encoder
    y = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert pipe.severity(y).map.shape == (1, 1, 8, 8)
    run = flash(*given)
    assert run.code == 2 and "holds a model; leave out --model to train for it, or choose another --out" in run.err
    run = flash("train", "denoiser", *given[2:])
    assert (
        run.code == 2 and "given for denoiser; expected it for severity or distilled-decoder, which it lacks" in run.err
    )
