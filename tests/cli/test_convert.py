"""`flashdiffusion convert`: a published checkpoint becomes a model folder that the other commands take."""

import hashlib
import json
import re

import pytest
import torch
import yaml

import published.original as original
from flashdiffusion import FlashPipeline
from flashdiffusion.published import load_published


@pytest.fixture
def ldm(tmp_path):
    """A small latent-diffusion checkpoint, of scale factor 0.5."""
    folder = tmp_path / "ldm"
    folder.mkdir()
    first, unet = original.make_first_stage(), original.make_unet()
    torch.save({"state_dict": original.ldm_tensors(first, unet, unet)}, folder / "model.ckpt")
    (folder / "config.yaml").write_text(yaml.safe_dump(original.ldm_config(first, unet, scale_factor=0.5)))
    return folder


@pytest.fixture
def severity(tmp_path):
    torch.save({"state_dict": original.make_severity()}, tmp_path / "severity.ckpt")
    return tmp_path / "severity.ckpt"


@pytest.fixture
def refused(flash, tmp_path):
    """Run the command; the one line that it fails with. Nothing is left behind."""

    def run(*arguments: object) -> str:
        out = tmp_path / "converted" / "model"
        ended = flash("convert", *arguments, "--out", out)
        assert ended.code == 2 and ended.out == ""
        assert re.fullmatch(r"flashdiffusion: error: .+\n", ended.err), ended.err
        assert not out.exists() and (not out.parent.exists() or list(out.parent.iterdir()) == [])
        return ended.err

    return run


def _sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_latent_model_with_a_severity_encoder(flash, tmp_path, ldm, severity):
    out = tmp_path / "model"
    ended = flash("convert", ldm / "model.ckpt", "--out", out, "--severity", severity)
    assert ended.code == 0 and f"--model {out}" in ended.out
    names = ["autoencoder", "denoiser", "model_index.json", "scheduler", "severity_encoder"]
    assert sorted(path.name for path in out.iterdir()) == names
    index = json.loads((out / "model_index.json").read_text())
    assert index["autoencoder"] == ["diffusers", "VQModel"] and index["sample_size"] == 32
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ldm", "model", "severity.ckpt"]

    pipeline, prior = FlashPipeline.from_pretrained(out), FlashPipeline(load_published(ldm)).prior
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    i = torch.tensor([10, 800])
    with torch.no_grad():
        z = prior.encode(x)
        assert torch.equal(pipeline.prior.encode(x), z)
        assert torch.equal(pipeline.prior.decode(z), prior.decode(z))
        assert torch.equal(pipeline.prior.denoise(z, i), prior.denoise(z, i))
        z_hat, var = original.severity(original.make_severity(), 2 * x - 1, 3, 1)
    found = pipeline.severity(x)
    torch.testing.assert_close(found.z_hat, 0.5 * z_hat, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.var, 0.25 * var, atol=1e-4, rtol=1e-4)


def test_a_pixel_model(flash, tmp_path):
    source, out = tmp_path / "ffhq.pt", tmp_path / "new" / "model"
    torch.save(original.make_unet(out=6, scale_shift=True, updown=True), source)
    config = tmp_path / "other.yaml"
    config.write_text("image_size: 32\nnum_head_channels: 32\n")
    assert flash("convert", source, "--out", out, "--config", config, "--sha256", _sha256(source)).code == 0
    assert sorted(path.name for path in out.iterdir()) == ["denoiser", "model_index.json", "scheduler"]
    pipeline = FlashPipeline.from_pretrained(out)
    assert pipeline.sample_size == 32 and pipeline.prior.denoiser.config.attention_head_dim == 32


def test_a_folder_in_diffusers_layout(flash, tmp_path, ldm):
    load_published(ldm).save_pretrained(tmp_path / "diffusers")
    weights = tmp_path / "diffusers" / "denoiser" / "diffusion_pytorch_model.safetensors"
    hash = f"denoiser/{weights.name}={_sha256(weights)}"
    assert flash("convert", tmp_path / "diffusers", "--out", tmp_path / "model", "--sha256", hash).code == 0
    assert FlashPipeline.from_pretrained(tmp_path / "model").prior.autoencoder.model.config.scaling_factor == 0.5


def test_checksums_name_their_file(flash, refused, ldm, severity, tmp_path):
    right = ["--sha256", _sha256(ldm / "model.ckpt"), "--sha256", f"severity.ckpt={_sha256(severity)}"]
    assert flash("convert", ldm / "model.ckpt", "--out", tmp_path / "a", "--severity", severity, *right).code == 0
    wrong = "0" * 64
    assert f"expected {wrong}" in refused(ldm / "model.ckpt", "--sha256", wrong)
    assert f"severity.ckpt has sha256 {_sha256(severity)}" in refused(
        ldm, "--severity", severity, "--sha256", f"severity.ckpt={wrong}"
    )
    assert "sha256 of other.ckpt, which is not read" in refused(ldm, "--sha256", f"other.ckpt={wrong}")
    assert "expected FILE=SHA256" in refused("owner/name", "--sha256", wrong)


def test_what_does_not_fit_leaves_nothing(refused, tmp_path, ldm, severity):
    assert "no file" in refused(tmp_path / "absent.ckpt")
    assert "no model folder" in refused(tmp_path / "absent")
    assert "has 0 keys std_conv.weight" in refused(ldm, "--severity", ldm / "model.ckpt")
    load_published(ldm).save_pretrained(tmp_path / "folder")
    assert "expected none: folders have their own" in refused(tmp_path / "folder", "--config", ldm / "config.yaml")
    assert "cannot read config" in refused(ldm, "--config", tmp_path / "absent.yaml")
    torch.save(original.make_unet(), tmp_path / "pixels.pt")
    assert "given for a pixel-space prior" in refused(tmp_path / "pixels.pt", "--severity", severity)
    torch.save(original.make_severity(widths=(32, 64)), severity)
    assert "3 latent channels at 1/2 of the image's side; expected 3 at 1/4" in refused(ldm, "--severity", severity)


def test_a_folder_that_is_there_is_not_written_over(flash, tmp_path, ldm):
    out = tmp_path / "model"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    ended = flash("convert", ldm, "--out", out)
    assert ended.code == 2 and "is there already; expected a new folder" in ended.err
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_a_folder_of_this_library_keeps_all_its_networks(flash, tmp_path, tiny_model):
    ended = flash("convert", tiny_model, "--out", tmp_path / "model")
    assert ended.code == 0
    before, after = FlashPipeline.from_pretrained(tiny_model), FlashPipeline.from_pretrained(tmp_path / "model")
    assert before.severity_encoder is not None and "prior and severity encoder" in ended.out
    assert before.regressor is not None and "regressor" in ended.out
    assert after.sample_size == before.sample_size
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(after.severity(x).var, before.severity(x).var)
    with torch.no_grad():
        assert torch.equal(after.regressor(x), before.regressor(x))


def test_a_severity_encoder_that_is_not_there_is_said_first(refused, tmp_path):
    line = refused(tmp_path / "absent.ckpt", "--severity", tmp_path / "sev.ckpt")
    assert f"no severity encoder at {tmp_path / 'sev.ckpt'}; expected the .ckpt published with the paper" in line
