"""The patch autoencoder: exact, orthonormal, saved and loaded; a model of photographs trained on it."""

import json
import shutil

import pytest
import torch
from PIL import Image

from flashdiffusion import FlashPipeline, GaussianBlur, Settings, SuperResolution
from flashdiffusion.data import load_image
from flashdiffusion.errors import CheckpointError, InputError
from flashdiffusion.physics import TASKS, Mixture
from flashdiffusion.physics.tasks import register_task
from flashdiffusion.priors import PatchAutoencoder, load_autoencoder


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_images_come_back(patch, exponent):
    x = torch.rand(3, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    autoencoder = PatchAutoencoder.fitted(x, patch, exponent)
    z = autoencoder.encode(x)
    assert z.shape == (3, 3 * patch**2, 16 // patch, 24 // patch)
    torch.testing.assert_close(autoencoder.decode(z), x, atol=2e-6, rtol=0)
    assert z.mean(dim=(0, 2, 3)).abs().max() < 1e-5
    if exponent == 1:
        torch.testing.assert_close(z.std(dim=(0, 2, 3)), torch.ones(3 * patch**2), atol=1e-4, rtol=0)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_white_noise_stays_white_noise_of_its_size(patch):
    autoencoder = PatchAutoencoder(patch)
    noise = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    moved = autoencoder.encode(0.5 + 0.05 * noise) - autoencoder.encode(torch.full_like(noise, 0.5))
    assert float(moved.square().sum()) == pytest.approx(float((2 * 0.05 * noise).square().sum()), rel=1e-4)


def test_smooth_images_are_in_the_first_channel_of_each_colour():
    z = PatchAutoencoder(2).encode(torch.full((1, 3, 4, 4), 0.75))
    torch.testing.assert_close(z[:, ::4], torch.ones(1, 3, 2, 2))
    assert float(z.square().sum()) == pytest.approx(12)


def test_it_is_saved_and_loaded(tmp_path):
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    autoencoder = PatchAutoencoder.fitted(x, 2, 0.5)
    autoencoder.save_pretrained(tmp_path)
    loaded = load_autoencoder(tmp_path)
    assert isinstance(loaded, PatchAutoencoder)
    assert torch.equal(loaded.encode(x), autoencoder.encode(x))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"patch": 3}, "patch is 3; expected one of 1, 2, 4"),
        ({"patch": None}, "patch is None"),
        ({"std": [1.0]}, r"std is \[1.0\]; expected 12 numbers"),
        ({"std": [0.0] * 12}, "of std and spread above 0"),
        ({"spread": [-1.0] * 12}, "of std and spread above 0"),
        ({"mean": [float("nan")] * 12}, r"mean is \[nan, .*expected 12 numbers"),
        ({"mean": "zero"}, "mean is 'zero'"),
    ],
)
def test_a_config_that_makes_none_is_refused(tmp_path, change, said):
    PatchAutoencoder(2).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=said):
        load_autoencoder(tmp_path)


def test_levels_end_at_the_noise_that_its_latents_show():
    """A tenth of their standard deviation, as with standardised latents."""
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.2
    latents = PatchAutoencoder.fitted(images, 2, 0.5)
    z = latents.encode(images)
    assert latents.latent_std == pytest.approx(float(z.var(dim=(0, 2, 3)).mean().sqrt()), rel=1e-3)
    assert PatchAutoencoder(2).latent_std == 1


def test_an_exponent_beyond_1_is_refused():
    with pytest.raises(InputError, match="exponent is 2"):
        PatchAutoencoder.fitted(torch.rand(1, 3, 8, 8), 2, 2)


def test_its_training_leaves_the_autoencoder_s_folder_alone_and_no_latents(tiny_photos):
    files = {f"{stage}{end}" for stage in ("denoiser", "severity") for end in (".ckpt", ".csv", "-samples.png")}
    folders = {"autoencoder", "denoiser", "scheduler", "severity_encoder", "model_index.json"}
    assert {path.name for path in tiny_photos.iterdir()} == files | folders


def test_a_model_of_photographs_restores_any_size(tiny_photos):
    pipe = FlashPipeline.from_pretrained(tiny_photos)
    assert isinstance(pipe.prior.autoencoder, PatchAutoencoder)
    for height, width in ((32, 48), (64, 16)):
        x = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
        physics = GaussianBlur([0.5, 1.5], noise_std=0.05)
        y = physics(x, torch.Generator().manual_seed(0))
        for method, options in (("flash(proximal)", {}), ("flash(latent-dps)", {"steps": 10}), ("ae", {})):
            images = pipe(y, physics, method=method, **options).images
            assert images.shape == x.shape and bool(images.isfinite().all())


def test_its_estimate_begins_as_the_measurement(tiny_photos):
    from flashdiffusion.severity import PatchSeverityEncoder

    pipe = FlashPipeline.from_pretrained(tiny_photos)
    encoder = PatchSeverityEncoder.of(pipe.prior.autoencoder, pipe.severity_encoder.config.unet_config, ["jpeg"])
    y = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    severity = encoder(y)
    torch.testing.assert_close(severity.z_hat, pipe.prior.encode(y))
    assert severity.map.shape == (2, 1, 16, 24)


def test_a_smaller_measurement_is_restored(tiny_photos):
    pipe = FlashPipeline.from_pretrained(tiny_photos)
    physics = SuperResolution(2, noise_std=0.02)
    images = pipe(torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0)), physics).images
    assert images.shape == (1, 3, 32, 48)


def test_images_are_evaluated_at_their_own_size(tiny_photos, flash, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, size in (("a", (40, 33)), ("b", (64, 48)), ("c", (40, 33))):
        Image.effect_noise(size, 60).convert("RGB").save(folder / f"{name}.png")
    options = ("--data", folder, "--model", tiny_photos, "--method", "ae", "--save-images", "--out", tmp_path / "out")
    ended = flash("evaluate", "--task", "denoising", *options)
    assert ended.code == 0, ended.err
    kept = tmp_path / "out" / "images" / "denoising"
    sizes = [tuple(load_image(kept / "ae" / f"{name}.png.png").shape[1:]) for name in "abc"]
    assert sizes == [(33, 40), (48, 64), (33, 40)]
    records = json.loads((tmp_path / "out" / "denoising--ae.json").read_text())["records"]
    alone = flash("evaluate", "--task", "denoising", *options[:-1], tmp_path / "alone", "--limit", 1)
    assert alone.code == 0
    one = json.loads((tmp_path / "alone" / "denoising--ae.json").read_text())["records"][0]
    assert one["psnr"] == pytest.approx(records[0]["psnr"], rel=1e-4)


def test_where_one_size_is_needed_images_are_cropped_and_it_is_said(tiny_photos, flash, image_folder, tmp_path):
    options = ("--model", tiny_photos, "--levels", 2, "--limit", 1, "--out", tmp_path / "ordering.json")
    ended = flash("ordering", "--data", image_folder, "--task", "gaussian-blur", *options)
    assert ended.code == 0
    assert "images are cropped and resized to 144 x 144 pixels: the model has no size of its own" in ended.err


def test_an_image_that_an_operator_refuses_fails_alone(tiny_photos, flash, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, size in (("a", (48, 32)), ("narrow", (3, 40)), ("b", (64, 48))):
        Image.effect_noise(size, 60).convert("RGB").save(folder / f"{name}.png")
    options = ("--data", folder, "--model", tiny_photos, "--method", "ae", "--out", tmp_path / "out")
    ended = flash("evaluate", "--task", "super-resolution", *options)
    assert ended.code == 1 and "narrow.png" in ended.err and "take larger images" in ended.err
    records = json.loads((tmp_path / "out" / "super-resolution--ae.json").read_text())["records"]
    assert [row["id"] for row in records] == ["a.png", "b.png"]


def test_an_image_is_cut_to_sides_that_super_resolution_can_divide(tiny_photos, flash, tmp_path):
    Image.effect_noise((41, 39), 60).convert("RGB").save(tmp_path / "a.png")
    register_task(Mixture("two-or-three", ("super-resolution-2", "super-resolution-3", "denoising")))
    sizes = {2: (38, 40), 3: (39, 39), None: (39, 41)}
    found = {}
    for seed in range(6):
        options = ("--data", tmp_path / "a.png", "--model", tiny_photos, "--method", "ae", "--save-images")
        out = tmp_path / str(seed)
        ended = flash("evaluate", "--task", "two-or-three", *options, "--seed", seed, "--out", out)
        assert ended.code == 0, ended.err
        folder = out / "images" / "two-or-three"
        shapes = {tuple(load_image(folder / kind / "a.png.png").shape[1:]) for kind in ("clean", "ae")}
        [record] = json.loads((out / "two-or-three--ae.json").read_text())["records"]
        found[record["degradation"].get("factor")] = shapes
    assert found == {factor: {size} for factor, size in sizes.items()}
    del TASKS["two-or-three"]


def test_what_was_trained_keeps_its_autoencoder(tiny_photos, image_folder, tmp_path):
    from flashdiffusion.training.recipes import get_recipe
    from flashdiffusion.training.run import train, with_severity

    config = tiny_photos / "autoencoder" / "config.json"
    before = config.read_text()
    with pytest.raises(InputError, match="autoencoder exists; pass --resume to keep it"):
        train("autoencoder", [image_folder], get_recipe("tiny-photos"), tiny_photos, limit=1)
    train("autoencoder", [image_folder], get_recipe("tiny-photos"), tiny_photos, limit=1, resume=True)
    assert config.read_text() == before
    shutil.copytree(tiny_photos / "autoencoder", tmp_path / "autoencoder")
    with pytest.raises(InputError, match="severity head is paper"):
        train("severity", [image_folder], with_severity(get_recipe("tiny-photos"), "paper", None, None), tmp_path)


def test_an_exact_decoder_has_no_error_unless_it_is_given(tiny_photos):
    pipe = FlashPipeline.from_pretrained(tiny_photos)
    for given, expected in (({}, 0.0), ({"decoder_error": 0.1}, 0.1)):
        solver, start = pipe.method("proximal", "flash", Settings(refine=True, **given))
        assert solver.consistency.decoder_error == start.consistency.decoder_error == expected
