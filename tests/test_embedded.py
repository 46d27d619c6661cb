"""The embedded models: whole, small, offline, and of use on the bundled pictures."""

from importlib.resources import as_file, files

import pytest
import torch
from torch.nn.functional import conv2d, pad

from flashdiffusion import (
    JPEG,
    BoxInpainting,
    Compose,
    Denoising,
    FlashPipeline,
    GaussianBlur,
    Operator,
    RandomInpainting,
)
from flashdiffusion.data import load_image
from flashdiffusion.errors import CheckpointError, SizeError
from flashdiffusion.metrics import psnr
from flashdiffusion.seeds import image_generator
from flashdiffusion.solvers import Problem

STRENGTHS = [0.5, 1.5, 3.0]
ASSETS = files("flashdiffusion") / "assets"


@pytest.fixture(scope="module")
def pipeline():
    return FlashPipeline.from_pretrained()


@pytest.fixture(scope="module")
def portrait():
    with as_file(ASSETS / "portrait.png") as path:
        return load_image(path, 128)[None]


def _size(folder) -> int:
    return sum(_size(p) if p.is_dir() else len(p.read_bytes()) for p in folder.iterdir())


def test_embedded_models_stay_small():
    assert _size(ASSETS) < 48e6


@pytest.mark.parametrize(("model", "data"), [("faces-128", "CelebA"), ("photos", "BSDS500")])
def test_its_card_tells_data_licence_and_command(model, data):
    card = (ASSETS / model / "README.md").read_text()
    for word in (data, "research", "flashdiffusion train", "minutes", "Limits"):
        assert word in card


@pytest.mark.parametrize(("model", "least"), [("pipeline", 16), ("photos", 8)])
@pytest.mark.filterwarnings("ignore:images of 16 x 16 pixels are far from")
def test_the_least_size_that_is_said_is_taken(request, model, least):
    pipe = request.getfixturevalue(model)
    assert f"any from {least} pixels a side" in repr(pipe)
    small = [torch.full((1, 3, side, side), 0.5) for side in (least, least - 1)]
    assert pipe(small[0], Denoising(0.1)).images.shape == small[0].shape
    with pytest.raises(SizeError, match=f"expected at least {least} pixels a side"):
        pipe.check(Problem(small[1], Denoising(0.1)))


def test_no_folder_of_that_name_takes_its_place(tmp_path, monkeypatch):
    for name in ("faces-128", "photos"):
        (tmp_path / name).mkdir()
    assert FlashPipeline.from_pretrained("photos").sample_size is None
    monkeypatch.chdir(tmp_path)
    assert FlashPipeline.from_pretrained().sample_size == 128
    assert FlashPipeline.from_pretrained("embedded:photos").sample_size is None
    with pytest.raises(CheckpointError):
        FlashPipeline.from_pretrained("photos")


def test_severity_rises_with_the_blur(pipeline, portrait):
    """From one pixel on: less takes hardly anything away beside noise of 0.05."""
    levels = [1.0, 1.4, 1.8, 2.2, 2.6, 3.0]
    y = torch.cat([GaussianBlur([s])(portrait, image_generator(0, str(s))) for s in levels])
    for severity in (pipeline.severity(y), pipeline.severity(y, GaussianBlur(levels))):
        assert bool((severity.var.diff() > 0).all())


def test_restores_the_portrait(pipeline, portrait):
    names = [str(s) for s in STRENGTHS]
    y = torch.cat([GaussianBlur([s])(portrait, image_generator(0, n)) for s, n in zip(STRENGTHS, names, strict=True)])
    result = pipeline(y, GaussianBlur(STRENGTHS), ids=names)
    x = portrait.expand(3, -1, -1, -1)
    gain = psnr(result.images, x) - psnr(y.clamp(0, 1), x)
    assert bool((gain > 1).all()), gain.tolist()
    assert bool((result.severity.diff() > 0).all()) and bool((result.nfe.diff() >= 0).all())
    assert int(result.nfe.min()) >= 1 and int(result.nfe.max()) <= 6
    ends = [0, 2]
    blur = GaussianBlur([STRENGTHS[n] for n in ends])
    fine = pipeline(y[ends], blur, solver="latent-dps", ids=[names[n] for n in ends])
    assert bool((fine.nfe.diff() > 0).all()) and bool((fine.nfe > 2 * result.nfe[ends]).all())


def test_an_image_does_not_depend_on_its_batch(pipeline, portrait):
    physics = GaussianBlur(STRENGTHS)
    y = physics(portrait.expand(3, -1, -1, -1), torch.Generator().manual_seed(0))
    own = physics.take(torch.tensor([2]))
    together = pipeline(y, physics, max_in_flight=3)
    alone = pipeline(y[2:], own, ids=["2"])
    torch.testing.assert_close(alone.images[0], together.images[2], atol=1e-3, rtol=0)
    torch.testing.assert_close(alone.severity_maps[0], together.severity_maps[2], rtol=1e-4, atol=1e-6)
    with torch.inference_mode():
        again = pipeline(y[2:], own, ids=["2"])
    assert torch.equal(again.images, alone.images)


def test_proximal_steps_are_few_and_quality_says_how_many(pipeline, portrait):
    physics = GaussianBlur(1.5)
    y = physics(portrait, torch.Generator().manual_seed(0))
    fast, few, best = (pipeline(y, physics, quality=quality) for quality in ("fast", "balanced", "best"))
    assert 1 <= int(few.nfe) <= 6 and torch.equal(few.images, pipeline(y, physics).images)
    assert int(fast.nfe) < int(few.nfe) < int(best.nfe)


def test_a_hole_is_filled(pipeline, portrait):
    physics = BoxInpainting(50, 50, 30, 30, noise_std=0.02)
    y = physics(portrait, torch.Generator().manual_seed(0))
    inside = pipeline(y, physics).images[..., 50:80, 50:80]
    assert float(y[..., 50:80, 50:80].mean()) < 0.05
    assert psnr(inside, portrait[..., 50:80, 50:80]) > 15


@pytest.mark.parametrize(("true", "told"), [(3.0, 1.5), (1.5, 3.0)])
def test_a_blur_of_another_width_than_told_is_noticed_and_restored(pipeline, portrait, true, told):
    """Beside an image whose physics is right, which stays as it is."""
    right = GaussianBlur([2.0])
    y = torch.cat([GaussianBlur([true])(portrait, image_generator(0, "a")), right(portrait, image_generator(0, "b"))])
    with pytest.warns(
        UserWarning, match=r"1 of 2 images do not fit the physics that was told \(a\); .* check its strength"
    ):
        result = pipeline(y, GaussianBlur([told, 2.0]), ids=["a", "b"])
    assert result.physics_corrected.tolist() == [True, False]
    alone = pipeline(y[1:], right, ids=["b"])
    torch.testing.assert_close(alone.images[0], result.images[1], atol=1e-3, rtol=0)
    assert float(alone.gflop[0]) == pytest.approx(float(result.gflop[1]), rel=1e-6)  # nothing of the other one's
    assert float(result.gflop[0] / result.nfe[0]) > float(result.gflop[1] / result.nfe[1])
    knowing = pipeline(y[:1], GaussianBlur([true]), ids=["a"])
    estimate = pipeline(y[:1], GaussianBlur([told]), ids=["a"], method="ae")
    found, best, plain = (
        float(psnr(images, portrait)) for images in (result.images[:1], knowing.images, estimate.images)
    )
    assert found > plain and found > best - 1.5, (found, best, plain)


def test_a_wrong_function_of_a_user_is_corrected_if_that_is_wanted(pipeline, portrait):
    y, told = GaussianBlur([3.0])(portrait, torch.Generator().manual_seed(0)), GaussianBlur([1.2])
    physics = Operator(told.A, adjoint=told.A_adjoint, noise_std=0.05)
    with pytest.warns(UserWarning, match="the image does not fit the physics"):
        corrected = pipeline(y, physics)
    kept = pipeline(y, physics, correct_physics=False)
    assert corrected.physics_corrected.tolist() == [True] and kept.physics_corrected.tolist() == [False]
    found, without = (float(psnr(one.images, portrait)) for one in (corrected, kept))
    assert found > without + 1, (found, without)
    prior = pipeline(y, GaussianBlur([1.2]), solver="prior")  # its start does not refine
    assert prior.physics_corrected.tolist() == [False]


def test_a_strong_blur_that_was_told_rightly_is_believed(pipeline, portrait):
    levels = [2.0, 3.0, 4.0, 5.0]
    y = torch.cat([GaussianBlur([s])(portrait, image_generator(0, str(s))) for s in levels])
    assert not pipeline(y, GaussianBlur(levels)).physics_corrected.any()


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_bare_function_is_as_good_as_one_whose_noise_is_told(pipeline, portrait, noise):
    kernel = torch.full((3, 1, 1, 9), 1 / 9)

    def smear(x):
        return conv2d(pad(x, (4, 4, 0, 0), mode="reflect"), kernel, groups=3)

    y = smear(portrait) + noise * torch.randn(portrait.shape, generator=torch.Generator().manual_seed(0))
    bare, told = pipeline(y, smear), pipeline(y, Operator(smear, noise_std=noise))
    bare, told = (float(psnr(one.images, portrait)) for one in (bare, told))
    assert bare > told - 1.5 and bare > float(psnr(y.clamp(0, 1), portrait)) + 2, (bare, told)


def test_a_function_that_dims_is_undone(pipeline, portrait):
    result = pipeline(0.5 * portrait, lambda x: 0.5 * x)
    assert float(psnr(result.images, portrait)) > 30


def test_what_an_inverted_start_costs_does_not_depend_on_its_batch(pipeline, portrait):
    """Each image takes a number of evaluations of its own to reach its start."""
    y = torch.cat([GaussianBlur([s])(portrait, image_generator(0, str(s))) for s in (0.5, 3.0)])
    options = {"method": "inversion(prior)", "steps": 60}
    together = pipeline(y, GaussianBlur([0.5, 3.0]), **options)
    alone = [pipeline(y[[n]], GaussianBlur([s]), **options) for n, s in enumerate((0.5, 3.0))]
    assert together.nfe[0] < together.nfe[1]
    torch.testing.assert_close(together.gflop, torch.cat([one.gflop for one in alone]))


@pytest.fixture(scope="module")
def photos():
    return FlashPipeline.from_pretrained("photos")


@pytest.fixture(scope="module")
def photograph():
    """A part with a lattice before the sky, (1, 3, 150, 131)."""
    with as_file(ASSETS / "photograph.jpg") as path:
        return load_image(path)[None, :, 150:300, 60:191]


@pytest.mark.parametrize(
    ("physics", "gain"),
    [
        (Denoising(0.1), 6),
        (GaussianBlur(1.5, noise_std=0.01), 1),
        (RandomInpainting.from_ratio(0.5, (150, 131), torch.Generator().manual_seed(0), 0.02), 12),
        (JPEG(30.0, noise_std=0.0), -0.3),
        (Compose(GaussianBlur(2.0), JPEG(30.0, noise_std=0.0)), 0.3),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_model_of_photographs_restores_what_it_was_trained_on(photos, photograph, physics, gain):
    y = physics(photograph, image_generator(0, "a"))
    result = photos(y, physics, ids=["a"], seed=0)
    before, after = (float(psnr(image.clamp(0, 1), photograph)) for image in (physics.image(y), result.images))
    assert result.images.shape == photograph.shape and after > before + gain
    assert not bool(result.physics_corrected.any())


def test_the_sky_takes_fewer_steps_than_what_stands_before_it(photos, photograph):
    """So does mild blur than strong; in the same batch as alone."""
    sky, lattice = photograph[..., :64, -64:], photograph[..., -64:, :64]
    physics = GaussianBlur([1.5, 1.5], noise_std=0.01)
    y = physics(torch.cat([sky, lattice]), torch.Generator().manual_seed(0))
    result = photos(y, physics, ids=["sky", "lattice"], seed=0)
    assert float(result.severity[0]) < float(result.severity[1]) and result.nfe[0] < result.nfe[1]
    alone = photos(y[1:], GaussianBlur(1.5, noise_std=0.01), ids=["lattice"], seed=0)
    torch.testing.assert_close(alone.images[0], result.images[1], atol=2e-3, rtol=0)
