"""Published checkpoints that are not what they are taken for: one line that names the thing; no code is run."""

import argparse
import hashlib
import json
import os
import pickle
import sys
import types
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import torch
import yaml

import published.original as original
from flashdiffusion.errors import CheckpointError
from flashdiffusion.priors.tensors import read_tensors
from flashdiffusion.published import load_published


class Touch:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.open, (str(self.path), os.O_CREAT)


@pytest.fixture
def ldm(tmp_path):
    """Folder of a small latent-diffusion checkpoint; `change(tensors, config)` edits it in place."""
    first, unet = original.make_first_stage(), original.make_unet()
    tensors, config = original.ldm_tensors(first, unet, unet), original.ldm_config(first, unet)

    def make(change=lambda tensors, config: None) -> Path:
        change(tensors, config["model"]["params"])
        torch.save({"state_dict": tensors}, tmp_path / "model.ckpt")
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        return tmp_path / "model.ckpt"

    return make


def _refusal(source, **options) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_published(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- code -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.pth"])
def test_code_in_a_checkpoint_is_not_run(tmp_path, name, legacy):
    trap = tmp_path / "trap"
    content = {"state_dict": original.make_unet(), "callbacks": Touch(trap)}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    message = _refusal(tmp_path / name)
    assert not trap.exists()
    assert "holds code (posix.open), which is not executed" in message and "state_dict" in message
    torch.load(tmp_path / name, weights_only=False)
    assert trap.exists()  # the trap works


def test_code_of_builtins_is_not_run(tmp_path):
    """Neither torch's list of forbidden modules nor that of what may stand beside weights names them."""
    trap = tmp_path / "trap"

    class Run:
        def __reduce__(self):
            return exec, (f"open({str(trap)!r}, 'w').close()",)

    torch.save({"state_dict": original.make_unet(), "callbacks": Run()}, tmp_path / "model.ckpt")
    assert "holds code (builtins.exec)" in _refusal(tmp_path / "model.ckpt").replace("__builtin__", "builtins")
    assert not trap.exists()


def test_code_in_a_bare_pickle_is_not_run(tmp_path):
    trap = tmp_path / "trap"
    (tmp_path / "model.ckpt").write_bytes(pickle.dumps(Touch(trap)))
    assert "which is not executed" in _refusal(tmp_path / "model.ckpt")
    assert not trap.exists()


def test_code_under_the_name_of_a_training_framework_is_not_run(tmp_path, monkeypatch):
    """Callbacks of lightning are answered by stand-ins, even if a module of that name could be imported."""
    trap, name = tmp_path / "trap", "pytorch_lightning.callbacks"
    module = types.ModuleType(name)
    module.touch = lambda path: Path(path).touch()
    module.touch.__module__, module.touch.__qualname__ = name, "touch"
    monkeypatch.setitem(sys.modules, "pytorch_lightning", types.ModuleType("pytorch_lightning"))
    monkeypatch.setitem(sys.modules, name, module)

    class Called:
        def __reduce__(self):
            return module.touch, (str(trap),)

    tensors = original.make_unet()
    torch.save({"state_dict": tensors, "callbacks": [Called()]}, tmp_path / "model.ckpt")
    assert read_tensors(tmp_path / "model.ckpt").keys() == tensors.keys()
    assert not trap.exists()
    torch.load(tmp_path / "model.ckpt", weights_only=False)
    assert trap.exists()


def test_callbacks_and_hyperparameters_beside_the_weights_do_no_harm(tmp_path, monkeypatch):
    """As lightning left them in 2021: a class as a key, and objects with a state."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": name})
    for part in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    monkeypatch.setitem(sys.modules, name, module)
    stateful = module.ModelCheckpoint()
    stateful.best = 3
    tensors = original.make_unet()
    content = {
        "state_dict": tensors,
        "callbacks": {module.ModelCheckpoint: {"best": 1.0, "path": Path("a"), "when": defaultdict(list, a=[1])}},
        "hyper_parameters": argparse.Namespace(model=stateful, lr=np.float64(1e-4), type=Any),
    }
    torch.save(content, tmp_path / "model.ckpt")
    monkeypatch.undo()
    found = read_tensors(tmp_path / "model.ckpt")
    assert found.keys() == tensors.keys() and all(torch.equal(found[k], tensors[k]) for k in tensors)
    assert name not in sys.modules


# -- files that are something else ----------------------------------------------------------------------


def test_other_files_are_told(tmp_path):
    path = tmp_path / "model.ckpt"
    for content in (b"", b"<html>not found</html>", b"PK\x03\x04 cut off"):
        path.write_bytes(content)
        assert "is no checkpoint that torch can read" in _refusal(path)
    torch.save([torch.zeros(2)], path)
    assert "holds a list; expected named tensors" in _refusal(path)
    torch.save({"weights": 3}, path)
    assert "weights is a int; expected a tensor" in _refusal(path)
    (tmp_path / "model.safetensors").write_bytes(b"12345678{}")
    assert "cannot be read as safetensors" in _refusal(tmp_path / "model.safetensors")
    assert "no file" in _refusal(tmp_path / "absent.ckpt")


def test_checkpoints_of_another_kind_are_told(tmp_path):
    path = tmp_path / "model.ckpt"
    torch.save(original.make_severity(), path)
    assert "is a severity encoder" in _refusal(path)
    torch.save(original.make_first_stage(), path)
    assert "is a first stage alone" in _refusal(path)
    torch.save({"net.0.weight": torch.zeros(2)}, path)
    assert "has keys such as net.0.weight; expected a latent-diffusion or a guided-diffusion" in _refusal(path)
    torch.save(original.make_unet() | {"label_emb.weight": torch.zeros(2, 3)}, path)
    assert "label_emb.weight: a conditional model" in _refusal(path)


def test_a_denoiser_of_more_than_images_is_told(tmp_path):
    """Conditioned by concatenation, as super-resolution models are."""
    torch.save(original.make_unet(channels=6), tmp_path / "model.pt")
    assert "denoiser of 6 channels in and 3 out" in _refusal(tmp_path / "model.pt")


def test_a_wrong_sha256_is_told(ldm):
    path = ldm()
    assert f"expected {'0' * 64}" in _refusal(path, sha256="0" * 64)
    assert "expected 64 hexadecimal digits" in _refusal(path, sha256="abc")
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    load_published(path, sha256=right.upper())
    load_published(path, sha256=right)


def test_a_missing_config_is_told(ldm):
    path = ldm()
    (path.parent / "config.yaml").rename(path.parent / "other.yaml")
    assert "no config beside" in _refusal(path)
    load_published(path, config=path.parent / "other.yaml")
    assert "cannot read config" in _refusal(path, config=path.parent / "absent.yaml")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1]", "holds a list"),
        ("a: [", "neither YAML nor JSON"),
        ("!!python/object/apply:os.system ['true']", "neither YAML nor JSON"),
        ("a: 1", "has no section model.params"),
    ],
)
def test_a_config_that_is_none_is_told(ldm, text, reason):
    path = ldm()
    (path.parent / "config.yaml").write_text(text)
    assert reason in _refusal(path)


# -- keys -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "first_stage_model.encoder.mid.attn_1.k.bias",
        "first_stage_model.encoder.down.1.block.0.nin_shortcut.weight",
        "first_stage_model.decoder.up.2.upsample.conv.weight",
        "first_stage_model.quant_conv.weight",
        "first_stage_model.post_quant_conv.bias",
        "model.diffusion_model.middle_block.1.qkv.bias",
        "model.diffusion_model.output_blocks.4.0.out_layers.3.weight",
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.time_embed.2.weight",
        "model_ema.diffusion_modelout2weight",
    ],
)
def test_a_missing_key_is_named(ldm, key):
    path = ldm(lambda tensors, config: tensors.pop(key))
    message = _refusal(path)
    average = key.replace("model.diffusion_model", "model_ema.diffusion_model")
    flat = "model_ema." + average.removeprefix("model_ema.").replace(".", "")  # is then one too many
    assert f"has no key {key}" in message or f"key {flat}" in message


@pytest.mark.parametrize(
    "key",
    [
        "first_stage_model.surplus.weight",
        "first_stage_model.encoder.down.0.block.0.temb_proj.weight",
        "model.diffusion_model.input_blocks.1.2.norm.weight",
        "model_ema.surplus",
        "surplus",
    ],
)
def test_a_key_too_many_is_named(ldm, key):
    path = ldm(lambda tensors, config: tensors.update({key: torch.zeros(2)}))
    message = _refusal(path)
    flat = "model_ema." + key.removeprefix("model.").replace(".", "")  # an average is expected of every weight
    assert f"has a key {key}" in message or f"has no key {flat}" in message


@pytest.mark.parametrize(
    "key",
    [
        "first_stage_model.encoder.down.0.block.0.norm1.weight",
        "first_stage_model.decoder.conv_in.weight",
        "first_stage_model.encoder.mid.attn_1.q.weight",
        "model_ema.diffusion_modelout2bias",
        "model_ema.diffusion_modelinput_blocks10emb_layers1bias",
        "model_ema.diffusion_modelmiddle_block1qkvweight",
    ],
)
def test_a_key_of_another_shape_is_named(ldm, key):
    path = ldm(lambda tensors, config: tensors.update({key: torch.cat([tensors[key]] * 2)}))
    message = _refusal(path)
    assert "has shape (" in message and "expected" in message
    name = message.split(" has shape")[0].split()[-1]
    assert key in (name, "model_ema." + name.removeprefix("model.").replace(".", ""))


# -- configs that contradict the weights ----------------------------------------------------------------


def _set(*names, value):
    def change(tensors, config):
        for name in names[:-1]:
            config = config[name]
        config[names[-1]] = value

    return change


_UNET, _DD = ("unet_config", "params"), ("first_stage_config", "params", "ddconfig")


@pytest.mark.parametrize(
    ("names", "value", "reason"),
    [
        ((*_UNET, "model_channels"), 64, "model_channels is 64, but the weights have 32"),
        ((*_UNET, "num_res_blocks"), 1, "num_res_blocks is 1, but the weights have 2"),
        ((*_UNET, "channel_mult"), [1, 2, 4], r"channel_mult is [1, 2, 4], but the weights have [1, 2]"),
        ((*_UNET, "attention_resolutions"), [4, 2], "but the weights have [2]"),
        ((*_UNET, "use_scale_shift_norm"), True, "use_scale_shift_norm is True, but the weights have False"),
        ((*_UNET, "resblock_updown"), True, "resblock_updown is True, but the weights have False"),
        ((*_UNET, "num_head_channels"), 48, "num_head_channels is 48; expected a divisor"),
        ((*_UNET, "num_head_channels"), -1, "neither num_head_channels nor num_heads"),
        ((*_DD, "ch"), 64, "ch is 64, but the weights have 32"),
        ((*_DD, "double_z"), True, "double_z is True, but the weights have False"),
        ((*_DD, "z_channels"), 4, "z_channels is 4, but the weights have 3"),
        ((*_DD, "tanh_out"), True, "tanh_out is True, but the weights have False"),
        ((*_DD, "attn_resolutions"), [8], "attn_resolutions is [8], but the weights have []"),
        (("first_stage_config", "params", "n_embed"), 8192, "n_embed is 8192, but the weights have 40"),
        (("linear_end",), 0.02, "expected the config of this checkpoint"),
        (("timesteps",), 500, "expected the config of this checkpoint"),
        (("linear_start",), "small", "linear_start is 'small'; expected a positive number"),
        (("beta_schedule",), "cosine", "beta_schedule is 'cosine'; expected linear or sqrt_linear"),
        (("parameterization",), "flow", "parameterization is 'flow'; expected eps, x0, v"),
    ],
)
def test_a_contradicting_config_is_told(ldm, names, value, reason):
    assert reason in _refusal(ldm(_set(*names, value=value)))


def test_heads_that_diffusers_cannot_express_are_told(ldm):
    """A number of heads that is the same over different widths: num_head_channels would differ by level."""

    def change(tensors, config):
        config["unet_config"]["params"].update(num_head_channels=-1, num_heads=4)

    load_published(ldm(change))  # attention in one width only
    wide = original.make_unet(attention=(0, 1))
    torch.save(wide, (path := ldm().parent / "wide.pt"))
    path.with_suffix(".json").write_text(json.dumps({"num_heads": 4}))
    assert "num_heads is 4 for attention over [32, 64] channels" in _refusal(path)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"learn_sigma": True}, "learn_sigma is True, but the weights have False"),
        ({"num_channels": 128}, "num_channels is 128, but the weights have 32"),
        ({"image_size": 16, "attention_resolutions": "16,8"}, "but the weights have [8]"),
        ({"attention_resolutions": "sixteen", "image_size": 16}, "expected numbers with commas"),
        ({"class_cond": True}, "class_cond is true"),
        ({"noise_schedule": "sqrt"}, "noise_schedule is 'sqrt'; expected linear or cosine"),
    ],
)
def test_a_contradicting_guided_config_is_told(tmp_path, config, reason):
    torch.save(original.make_unet(), tmp_path / "model.pt")
    (tmp_path / "model.json").write_text(json.dumps(config))
    assert reason in _refusal(tmp_path / "model.pt")


# -- conditional models ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "value"),
    [
        (("cond_stage_config",), {"target": "ldm.modules.encoders.modules.ClassEmbedder"}),
        (("cond_stage_config",), "__is_first_stage__"),
        (("conditioning_key",), "crossattn"),
    ],
)
def test_a_config_of_a_conditional_model_is_told(ldm, names, value):
    message = _refusal(ldm(_set(*names, value=value)))
    assert "a conditional model (" in message and str(value if isinstance(value, str) else value["target"]) in message
    assert "which is given text, a class or an image at each step; expected an unconditional one" in message


def test_weights_of_a_condition_are_told(ldm):
    path = ldm(lambda tensors, config: tensors.update({"cond_stage_model.embedding.weight": torch.zeros(3, 2)}))
    assert "a conditional model ('cond_stage_model.embedding.weight')" in _refusal(path)


@pytest.mark.parametrize("key", ["label_emb.weight", "input_blocks.1.1.transformer_blocks.0.norm1.weight"])
def test_weights_of_a_conditional_unet_are_told(ldm, tmp_path, key):
    torch.save(original.make_unet() | {key: torch.zeros(3, 2)}, tmp_path / "guided.pt")
    assert f"{key}: a conditional model, which is given a class or text" in _refusal(tmp_path / "guided.pt")
    path = ldm(
        lambda tensors, config: [
            tensors.update({f"model.diffusion_model.{key}": torch.zeros(3, 2)}),
            tensors.update(
                {
                    f"model_ema.diffusion_model.{key}".replace(".", "").replace("model_ema", "model_ema."): torch.zeros(
                        3, 2
                    )
                }
            ),
        ]
    )
    assert f"{key}: a conditional model, which is given a class or text" in _refusal(path)


# -- hostile files --------------------------------------------------------------------------------------

_LAYER = "input_blocks.0.0.weight"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: {k: torch.zeros(1).expand(10**6, *v.shape) for k, v in t.items()}, "asks for tensors of"),
        (lambda t: t | {_LAYER: torch.zeros(32, 3, 3, 3, device="meta")}, "asks for tensors of"),
        (lambda t: t | {_LAYER: torch.zeros(32, 3, 3, 3).to_sparse()}, "is no plain tensor"),
        (lambda t: t | {_LAYER: torch.full((32, 3, 3, 3), float("nan"))}, f"the weights {_LAYER} hold NaN"),
        (lambda t: t | {_LAYER: torch.zeros(32, 3, 3, 3).long()}, f"{_LAYER} has shape (32, 3, 3, 3) and torch.int64"),
        (lambda t: t | {_LAYER: torch.tensor(1.0)}, f"{_LAYER} has shape (); expected 4 dimensions"),
        (lambda t: t | {"output_blocks.99999999999.0.x": torch.zeros(1)}, "output_blocks.99999999999.0.x too many"),
        (lambda t: t | {"output_blocks.²": torch.zeros(1)}, "too many for this layout"),
        (lambda t: t | {"a\nb": torch.zeros(1)}, "has a key 'a\\nb'; expected names of tensors"),
        (lambda t: t | {"x" * 10**6: torch.zeros(1)}, "expected names of tensors"),
    ],
)
def test_tensors_that_ask_for_more_than_the_file_holds_are_told(tmp_path, change, reason):
    torch.save(change(original.make_unet()), tmp_path / "model.pt")
    assert reason in _refusal(tmp_path / "model.pt")


def test_a_compressed_archive_is_told(tmp_path):
    torch.save(original.make_unet(), tmp_path / "plain.pt")
    with ZipFile(tmp_path / "plain.pt") as plain, ZipFile(tmp_path / "model.pt", "w", ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert "is a compressed archive" in _refusal(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 2_000, "nests too deeply"),
        (
            "a: &a [x, x]\n"
            + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in pairwise("abcdefghijklmnopq")),
            "no section",
        ),
        ("image_size: 0x" + "f" * 10_000, "no section"),
        ("x: " + "y" * 200_000, "expected at most 50000"),
    ],
    ids=["deep", "bomb", "number", "large"],
)
def test_a_hostile_config_is_told(ldm, text, reason):
    path = ldm()
    (path.parent / "config.yaml").write_text(text)
    assert reason in _refusal(path)


@pytest.mark.parametrize("value", [[[1] * 9] * 9, 1 << 10_000, {"a": None}, float("nan"), "x" * 10_000, -7, 10**12])
@pytest.mark.parametrize("name", ["linear_start", "timesteps", "scale_factor"])
def test_values_of_a_config_that_cannot_be_are_told_in_short(ldm, name, value):
    message = _refusal(ldm(_set(name, value=value)))
    assert name in message and len(message) < 500
