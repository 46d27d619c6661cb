"""What an imaging scientist types first: each works, or says what to type instead."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from flashdiffusion import Blur, Denoising, FlashPipeline, GaussianBlur, InputError, MotionBlur, Operator, Settings
from flashdiffusion.data import load_image
from flashdiffusion.physics import RandomInpainting
from flashdiffusion.pipeline import Batch
from flashdiffusion.pipeline.inputs import doubts

FEW = Settings(eta=0.5, correction=1.0, steps=6)
ARRAY = (np.random.default_rng(0).random((32, 32, 3)) * 255).round().astype(np.uint8)
TENSOR = torch.from_numpy(ARRAY).permute(2, 0, 1).float() / 255
GREY = ARRAY[..., 0]


@pytest.fixture
def blur():
    return GaussianBlur([1.0])


@pytest.fixture
def expected(tiny_pipeline, blur):
    return tiny_pipeline(TENSOR[None], blur, settings=FEW).images


@pytest.mark.parametrize(
    "y",
    [
        ARRAY,
        ARRAY[None],
        ARRAY.astype(np.float32) / 255,
        (ARRAY.astype(np.float64) / 255).transpose(2, 0, 1),
        (ARRAY.astype(np.float32) / 255).transpose(2, 0, 1)[None],
        Image.fromarray(ARRAY),
        [Image.fromarray(ARRAY)],
        TENSOR,
        [TENSOR],
    ],
    ids=lambda y: type(y).__name__,
)
def test_one_image_in_any_form(tiny_pipeline, blur, expected, y):
    torch.testing.assert_close(tiny_pipeline(y, blur, settings=FEW).images, expected)


def test_a_measurement_alone_is_not_enough(tiny_pipeline):
    with pytest.raises(InputError, match=r"no physics; expected what made y.*GaussianBlur\(2\.0\)"):
        tiny_pipeline(TENSOR)


def test_a_path_and_a_list_of_anything(tiny_pipeline, tmp_path, expected):
    path = tmp_path / "image.png"
    Image.fromarray(ARRAY).save(path)
    restored = tiny_pipeline([path, str(path), ARRAY, TENSOR], GaussianBlur([1.0]), settings=FEW, ids=["0"] * 4)
    for image in restored.images:
        torch.testing.assert_close(image, expected[0], atol=1e-4, rtol=0)
    with pytest.raises(InputError, match="expected one size"):
        tiny_pipeline([ARRAY, ARRAY[:16, :16]], GaussianBlur([1.0]))


@pytest.mark.parametrize("y", [GREY, GREY[..., None], Image.fromarray(GREY), TENSOR[0], TENSOR[:1], TENSOR[None, :1]])
def test_grey_in_grey_out(tiny_pipeline, blur, y):
    restored = tiny_pipeline(y, blur, settings=FEW)
    assert restored.images.shape == (1, 1, 32, 32)
    assert restored.pil()[0].mode == "L"
    assert tiny_pipeline(y, lambda x: x, settings=FEW).images.shape == (1, 1, 32, 32)


@pytest.mark.parametrize("y", ["pictures", 3])
def test_what_is_no_image_is_refused(tiny_pipeline, blur, y):
    with pytest.raises(InputError, match=r"cannot read|expected a tensor"):
        tiny_pipeline(y, blur)
    with pytest.raises(InputError, match="expected an object with A"):
        tiny_pipeline(TENSOR, 2.0)


def test_one_physics_for_a_batch_and_a_function_as_physics(tiny_pipeline):
    y = torch.stack([TENSOR, TENSOR.flip(1)])
    one = tiny_pipeline(y, GaussianBlur([2.0]), settings=FEW).images
    torch.testing.assert_close(one, tiny_pipeline(y, GaussianBlur([2.0, 2.0]), settings=FEW).images)
    assert bool(tiny_pipeline(y, lambda x: 0.5 * x, settings=FEW).images.isfinite().all())


def test_method_in_one_word(tiny_pipeline, blur):
    pair = tiny_pipeline(TENSOR, blur, solver="psld", start="flash", settings=FEW).images
    assert torch.equal(tiny_pipeline(TENSOR, blur, method="flash(psld)", settings=FEW).images, pair)
    with pytest.raises(InputError, match="one or the other"):
        tiny_pipeline(TENSOR, blur, method="flash(psld)", solver="psld")


def test_settings_as_keywords(tiny_pipeline, blur):
    both = tiny_pipeline(TENSOR, blur, settings=FEW | Settings(eta=4), start="noise").images
    assert torch.equal(tiny_pipeline(TENSOR, blur, settings=FEW, eta=4, start="noise").images, both)
    assert tiny_pipeline(TENSOR, blur, steps=5, start="noise").nfe.tolist() == [5]
    with pytest.raises(InputError, match="unknown setting 'etta'"):
        tiny_pipeline(TENSOR, blur, etta=4)


def _solvers(monkeypatch, pipeline, *given, **options) -> set[str]:
    """The solvers that a stream of two batches takes, the second with settings of its own."""
    taken = set()
    method = type(pipeline).method

    def watched(self, solver, *more):
        taken.add(solver)
        return method(self, solver, *more)

    with monkeypatch.context() as patch:
        patch.setattr(type(pipeline), "method", watched)
        batches = [Batch(["a"], TENSOR[None], GaussianBlur(1.0), settings) for settings in given or (None,)]
        failed = [one.failed for one in pipeline.stream(batches, **options)]
    assert failed == [None] * len(batches)
    return taken


def test_proximal_is_the_default_unless_settings_of_others_are_given(tiny_pipeline, monkeypatch):
    few = Settings(steps=3)
    assert _solvers(monkeypatch, tiny_pipeline, settings=few) == {"proximal"}
    assert _solvers(monkeypatch, tiny_pipeline, start="flash", quality="fast") == {"proximal"}
    assert _solvers(monkeypatch, tiny_pipeline, settings=few, eta=4) == {"latent-dps"}
    assert _solvers(monkeypatch, tiny_pipeline, settings=few | {"guidance": 4}) == {"latent-dps"}
    assert _solvers(monkeypatch, tiny_pipeline, settings=few, start="noise") == {"latent-dps"}
    assert _solvers(monkeypatch, tiny_pipeline, few, few | {"eta": 4}) == {"proximal", "latent-dps"}
    without = FlashPipeline(tiny_pipeline.prior, None, 32)
    with pytest.warns(UserWarning, match="no severity encoder"):
        assert _solvers(monkeypatch, without, settings=few) == {"latent-dps"}


def test_each_batch_of_a_stream_is_restored_as_it_would_be_alone(tiny_pipeline):
    few, guided = Settings(steps=3), Settings(steps=3, eta=4)
    batches = [Batch(["a"], TENSOR[None], GaussianBlur(1.0), one) for one in (few, guided)]
    first, second = sorted(tiny_pipeline.stream(batches), key=lambda one: one.index)
    for one, settings, method in ((first, few, "flash(proximal)"), (second, guided, "flash(latent-dps)")):
        alone = tiny_pipeline(TENSOR, GaussianBlur(1.0), ids=["a"], method=method, settings=settings)
        assert torch.equal(one.image, alone.images[0]) and one.gflop == pytest.approx(float(alone.gflop))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"omega": 0.1}, "omega: not used by method latent-dps, .* used by gml-dps, psld"),
        ({"settings": Settings(gamma=40)}, "gamma: not used by method latent-dps, .* used by resample"),
        ({"trust": 1, "eta": 4}, "trust: not used by method latent-dps, .* used by proximal"),
        ({"start": "noise", "quality": "fast"}, "quality: not used by method latent-dps, .* used by proximal"),
        (
            {"start": "noise", "correction": 1},
            r"correction: not used by method latent-dps, .* used by flash",
        ),
        ({"method": "flash", "eta": 4}, r"guidance: not used by method flash\(proximal\), .* used by latent-dps"),
    ],
)
def test_a_setting_that_nothing_uses_is_named_with_what_uses_it(tiny_pipeline, options, reason):
    with pytest.raises(InputError, match=reason):
        tiny_pipeline.stream([], **options)


def test_a_setting_of_one_batch_that_nothing_uses_fails_that_batch(tiny_pipeline):
    batches = [
        Batch([name], TENSOR[None], GaussianBlur(1.0), one) for name, one in (("a", FEW), ("b", Settings(omega=1)))
    ]
    failed = {one.id: one.failed for one in tiny_pipeline.stream(batches)}
    assert failed["a"] is None and failed["b"].startswith("omega: not used by method latent-dps")


def test_samples(tiny_pipeline, tmp_path):
    y = torch.stack([TENSOR, TENSOR.flip(1)])
    restored = tiny_pipeline(y, GaussianBlur([1.0, 2.0]), num_samples=3, start="noise", settings=FEW)
    alone = tiny_pipeline(y, GaussianBlur([1.0, 2.0]), start="noise", settings=FEW)
    assert restored.samples.shape == (3, 2, 3, 32, 32) and len(restored) == 2
    torch.testing.assert_close(restored.images, alone.images, atol=1e-4, rtol=0)
    torch.testing.assert_close(restored.samples[0], restored.images)
    torch.testing.assert_close(restored.mean, restored.samples.mean(0))
    assert float(restored.std.mean()) > 0 and float(alone.std.max()) == 0
    files = restored.save(tmp_path)
    assert [file.stem for file in files] == [f"{i}{end}" for i in (0, 1) for end in ("", "-sample-2", "-sample-3")]
    torch.testing.assert_close(load_image(files[4]), restored.samples[1, 1], atol=1 / 255, rtol=0)


def test_a_live_view(tiny_pipeline, blur):
    seen = []
    tiny_pipeline(
        TENSOR,
        blur,
        start="noise",
        settings=FEW,
        callback=lambda step, image, ids: seen.append((step, image.shape, ids)),
    )
    assert seen == [(step, (1, 3, 32, 32), ["0"]) for step in range(1, 7)]


def test_where_a_model_is(tiny_model):
    half = FlashPipeline.from_pretrained(tiny_model, device="cpu", dtype=torch.bfloat16)
    assert half.device.type == "cpu" and half.prior.dtype == torch.bfloat16
    assert half.half().prior.dtype == torch.float16


def test_results_are_saved_and_indexed(tiny_pipeline, blur, tmp_path):
    restored = tiny_pipeline(TENSOR, blur, ids=["me/portrait"], settings=FEW)
    assert len(restored) == 1 and torch.equal(restored[0], restored.images[0])
    files = restored.save(tmp_path / "out")
    assert [file.name for file in files] == ["me_portrait.png"]
    with Image.open(files[0]) as image:
        assert image.size == restored.pil()[0].size == (32, 32)


def test_failed_images_are_warned_of(tiny_pipeline):
    class Odd:
        def __init__(self, wide):
            self.wide = wide

        def A(self, x):
            if bool(self.wide.any()):
                raise ValueError("too wide")
            return x

        def take(self, rows):
            return Odd(self.wide[rows])

    with pytest.warns(UserWarning, match="1 of 2 images failed: 1: .*ValueError: too wide"):
        restored = tiny_pipeline(torch.stack([TENSOR] * 2), Odd(torch.tensor([False, True])), settings=FEW)
    assert [*restored.failed] == [1] and restored.pil()[1] is None


def test_a_stream_is_refused_at_the_call(tiny_pipeline):
    for wrong in (
        {"solver": "latentdps"},
        {"eta": -1.0},
        {"max_in_flight": 0},
        {"start": "regression", "max_in_flight": 0},
    ):
        with pytest.raises(InputError):
            tiny_pipeline.stream([], **wrong)


def test_a_model_without_severity_encoder_starts_from_noise_and_says_so_once(tiny_pipeline, blur):
    alone = FlashPipeline(tiny_pipeline.prior)
    with pytest.warns(UserWarning, match="no severity encoder: images start from noise"):
        assert alone(TENSOR, blur, settings=FEW).nfe.tolist() == [6]
    alone(TENSOR, blur, settings=FEW)


def test_inside_inference_mode(tiny_model, tiny_pipeline, expected):
    with torch.inference_mode():
        loaded = FlashPipeline.from_pretrained(tiny_model)
        y = TENSOR.clone()[None]
        restored = loaded(y, GaussianBlur(torch.ones(1)), settings=FEW)
        batches = [Batch(["0"], y, GaussianBlur(torch.ones(1)), FEW)]
        stream = tiny_pipeline.stream(batches)
        one = next(stream)
        assert torch.is_inference_mode_enabled()
        assert not list(stream)
    torch.testing.assert_close(restored.images, expected)
    torch.testing.assert_close(one.image, expected[0])


def test_the_other_scale_is_noted(tiny_pipeline):
    with pytest.warns(UserWarning, match=r"as if on the \[-1, 1\] scale; expected \[0, 1\]: pass \(y \+ 1\) / 2"):
        tiny_pipeline(2 * TENSOR - 1, GaussianBlur([1.0], 0.05), settings=FEW)
    noisy = TENSOR + 0.2 * torch.randn(TENSOR.shape, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny_pipeline(noisy, GaussianBlur([1.0], 0.2), settings=FEW)


def test_a_size_far_from_the_model_s_is_warned_of_once(tiny_pipeline, blur):
    pipe, large = FlashPipeline(tiny_pipeline.prior, tiny_pipeline.severity_encoder, 32), TENSOR.repeat(1, 2, 2)
    pipe(TENSOR, blur, method="ae")
    pipe(large, blur, method="ae", tile=48)
    with pytest.warns(
        UserWarning, match=r"images of 64 x 64 pixels are far from the 32 x 32 pixels that the model was"
    ):
        pipe(large, blur, method="ae")
    pipe(large, blur, method="ae")
    own = FlashPipeline.from_pretrained()
    assert own.far_from((128, 100)) is None
    assert "; photos is for photographs of any size" in str(own.far_from((427, 640)))


@pytest.mark.parametrize("colour", [(0.0, 0.0, 0.0), (1.0, 0.0, 1.0)])
@pytest.mark.parametrize("rest", [0.0, 0.01])  # what compression leaves
def test_a_mask_that_keeps_nothing_but_holes_is_doubted(colour, rest):
    kept = torch.zeros(32, 32)
    kept[8:] = 1
    holes = torch.tensor(colour).view(3, 1, 1) + rest * torch.randn(
        3, 32, 32, generator=torch.Generator().manual_seed(0)
    )
    y = torch.where(kept == 1, TENSOR, holes)[None]
    assert [*doubts(y, RandomInpainting(kept))] == []
    [said] = doubts(y, RandomInpainting(1 - kept))
    assert said.startswith("the mask seems to be inverted: what it keeps is of one colour (")
    assert said.endswith("in Python pass 1 - mask; in a file white is kept and black is lost")
    both = RandomInpainting(torch.stack([kept, 1 - kept]))
    [said] = doubts(y.expand(2, -1, -1, -1), both)
    assert said.startswith("the mask of image 2 of 2 seems to be inverted")
    assert [*doubts(torch.full_like(y, 0.5), RandomInpainting(kept))] == []  # of which nothing can be told


def test_severity_maps_are_beside_the_images_and_saved_as_pictures(tiny_pipeline, blur, tmp_path):
    restored = tiny_pipeline([ARRAY, ARRAY[::-1].copy()], blur, steps=8)
    size = tiny_pipeline.prior.latent_shape(restored.images.shape[2:])[1:]
    assert restored.severity_maps.shape == (2, *size) and restored.severity_maps.dtype == torch.float32
    torch.testing.assert_close(restored.severity_maps.mean(dim=(1, 2)), restored.severity)
    # As the encoder gives them: the residual's test of a start amplifies rounding on a network that is untrained.
    alone, both = (tiny_pipeline(y, blur, steps=8, refine=False) for y in (ARRAY, [ARRAY, ARRAY[::-1].copy()]))
    torch.testing.assert_close(alone.severity_maps[0], both.severity_maps[0], rtol=1e-4, atol=1e-6)
    files = restored.save(tmp_path / "out", maps=tmp_path / "maps")
    assert [path.name for path in files] == sorted(path.name for path in (tmp_path / "maps").iterdir())
    with Image.open(tmp_path / "maps" / files[0].name) as picture:
        assert (picture.mode, picture.size) == ("RGB", (restored.images.shape[3], restored.images.shape[2]))
    with pytest.raises(InputError, match="the folder of the images; choose another"):
        restored.save(tmp_path / "out", maps=tmp_path / "out")
    noise = tiny_pipeline(ARRAY, blur, steps=8, start="noise")
    assert noise.severity_maps is None
    with pytest.raises(InputError, match="no severity encoder was used"):
        noise.save(tmp_path / "none", maps=tmp_path / "none-maps")
    assert not (tmp_path / "none").exists()


def test_saved_images_never_overwrite_each_other(tiny_pipeline, tmp_path):
    y = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    restored = tiny_pipeline(y, GaussianBlur([1.0, 1.0]), ids=["a/b", "a_b"], steps=4)
    assert sorted(path.name for path in restored.save(tmp_path)) == ["a_b-2.png", "a_b.png"]


def test_one_number_for_a_batch(tiny_pipeline):
    y = torch.stack([TENSOR, TENSOR.flip(1)])
    each = tiny_pipeline(y, GaussianBlur([2.0, 2.0]), settings=FEW).images
    assert torch.equal(tiny_pipeline(y, GaussianBlur(2.0), settings=FEW).images, each)
    stream = tiny_pipeline.stream([Batch(["0", "1"], y, GaussianBlur(2.0), FEW)])
    assert torch.equal(torch.stack([one.image for one in sorted(stream, key=lambda one: one.index)]), each)


KERNEL = np.random.default_rng(1).random((4, 6)).astype(np.float32)


def test_own_blur_kernels(tiny_pipeline, tmp_path):
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one, two = Blur(KERNEL), Blur(torch.from_numpy(np.stack([KERNEL, 3 * KERNEL[::-1].copy()]))[:, None])
    assert len(one) == 1 and len(two) == 2
    torch.testing.assert_close(one.A(x)[0], two.A(x)[0])
    assert float((one.A(x)[1] - two.A(x)[1]).abs().max()) > 1e-3
    torch.testing.assert_close(one.A(torch.ones_like(x)), torch.ones_like(x))
    shares = KERNEL / KERNEL.sum()
    moved = (float(share) * x.roll((a - 2, b - 3), (2, 3)) for (a, b), share in np.ndenumerate(shares))
    inside = (..., slice(3, -3), slice(3, -3))
    torch.testing.assert_close(one.A(x)[inside], sum(moved)[inside], atol=1e-6, rtol=0)
    line = MotionBlur.from_line(9, 30)
    torch.testing.assert_close(Blur(line.params["kernel"]).A(x), line.A(x))
    Image.fromarray((KERNEL * 255).round().astype(np.uint8)).save(tmp_path / "kernel.png")
    np.save(tmp_path / "kernel.npy", KERNEL)
    for name, error in (("kernel.png", 0.02), ("kernel.npy", 1e-6)):
        torch.testing.assert_close(Blur(tmp_path / name).A(x), one.A(x), atol=error, rtol=0)
    assert tiny_pipeline(x.float(), one, settings=FEW).images.isfinite().all()
    for wrong, said in ((np.zeros((3, 3)), "sum 0"), (np.ones(3), "expected .h, w."), ([[np.nan]], "finite")):
        with pytest.raises(InputError, match=said):
            Blur(np.asarray(wrong))


def test_pure_noise(tiny_pipeline, flash, tmp_path, tiny_model):
    y = Denoising(0.2)(torch.stack([TENSOR] * 2), torch.Generator().manual_seed(0))
    torch.testing.assert_close((y - TENSOR).std(), torch.tensor(0.2), rtol=0.05, atol=0)
    assert tiny_pipeline(y, Denoising(0.2), settings=FEW).images.isfinite().all()
    assert Denoising([0.1, 0.2]).take(torch.tensor([1])).noise_std.tolist() == [0.2]
    Image.fromarray(ARRAY).save(tmp_path / "noisy.png")
    Image.fromarray((KERNEL * 255).round().astype(np.uint8)).save(tmp_path / "kernel.png")
    for number, written in enumerate(
        ("denoising", "denoising:noise_std=0.1", f"blur:kernel={tmp_path / 'kernel.png'}")
    ):
        options = ("--physics", written, "--model", tiny_model, "--steps", 2, "--out", tmp_path / str(number))
        assert flash("restore", tmp_path / "noisy.png", *options).code == 0


def test_a_function_with_its_adjoint_and_noise(tiny_pipeline):
    half = Operator(lambda x: 0.5 * x, lambda y: 0.5 * y, noise_std=0.02)
    y = half(TENSOR[None], torch.Generator().manual_seed(0))
    assert y.shape == (1, 3, 32, 32) and float((y - 0.5 * TENSOR).std()) == pytest.approx(0.02, rel=0.05)
    assert tiny_pipeline(y, half, method="psld", settings=FEW).images.isfinite().all()
    found = tiny_pipeline(y, Operator(lambda x: 0.5 * x, noise_std=0.02), method="psld", settings=FEW)  # it is linear
    told = tiny_pipeline(y, half, method="psld", settings=FEW)
    torch.testing.assert_close(found.images, told.images)
    with pytest.raises(InputError, match=r"no A_adjoint|linear"):
        tiny_pipeline(y, Operator(lambda x: x * x), method="psld", settings=FEW)
    with pytest.raises(InputError, match="noise std is -1"):
        Operator(lambda x: x, noise_std=-1)


class _Object:
    """A physics of the user's own, with a function of arrays as its A."""

    def __init__(self, function):
        self.function = function

    def A(self, x):
        return self.function(x)


# Each fails, or gives an array, in a way of its own when it is given a tensor.
ON_ARRAYS = {
    "function of numpy": lambda x: np.roll(x, 1, axis=2),
    "method of arrays": lambda x: x.astype(np.float32),
    "order of axes": lambda x: x.transpose(0, 1, 3, 2),
    "step backwards": lambda x: x[..., ::-1],
    "to numpy": lambda x: x.numpy() if isinstance(x, torch.Tensor) else x.missing,
    "gives an array": lambda x: np.asarray(x.detach() if isinstance(x, torch.Tensor) else x),
}


@pytest.mark.parametrize("wrapped", [Operator, _Object, lambda function: function], ids=["Operator", "object", "as is"])
@pytest.mark.parametrize("function", ON_ARRAYS.values(), ids=ON_ARRAYS)
def test_an_operator_written_with_numpy_says_what_to_do(tiny_pipeline, wrapped, function):
    assert tiny_pipeline(TENSOR, wrapped(function), method="ae").images.isfinite().all()
    with pytest.raises(InputError, match="written with numpy, and this method needs its gradient: write it with torch"):
        tiny_pipeline(TENSOR, wrapped(function), start="noise", settings=FEW)


@pytest.mark.parametrize("wrapped", [Operator, _Object])
def test_measurements_without_a_gradient_say_what_to_do(tiny_pipeline, wrapped):
    physics = wrapped(lambda x: torch.from_numpy(0.5 * x.detach().numpy()))
    assert tiny_pipeline(TENSOR, physics, method="ae").images.isfinite().all()
    with pytest.raises(InputError, match="measurements without a gradient, as numpy does: write it with torch"):
        tiny_pipeline(TENSOR, physics, start="noise", settings=FEW)


def test_a_fault_of_a_torch_function_is_not_blamed_on_numpy(tiny_pipeline):
    with pytest.raises(InputError, match=r"has no attribute 'missing'$"):
        tiny_pipeline(TENSOR, _Object(lambda x: x.missing), start="noise", settings=FEW)


def test_a_function_in_a_stream_fails_alone_or_works(tiny_pipeline):
    y = torch.rand(1, 3, 32, 32)

    def bad(x):
        raise KeyError("no such thing")

    batches = [
        Batch(["good"], y, lambda x: x * 0.5, FEW),
        Batch(["bad"], y, bad, FEW),
        Batch(["ours"], y, GaussianBlur(1.0), FEW),
    ]
    failed = {one.id: one.failed for one in tiny_pipeline.stream(batches)}
    assert failed["good"] is failed["ours"] is None and "no such thing" in failed["bad"]


@pytest.mark.parametrize(
    ("physics", "message"),
    [
        (GaussianBlur, r"expected one with its parameters, GaussianBlur\("),
        ("gaussian-blur:std=2", "such as GaussianBlur"),
    ],
)
def test_what_is_no_physics_is_told_what_would_be(tiny_pipeline, physics, message):
    with pytest.raises(InputError, match=message):
        tiny_pipeline(torch.rand(1, 3, 32, 32), physics)


def test_an_empty_list_is_called_that(tiny_pipeline):
    with pytest.raises(InputError, match="empty list"):
        tiny_pipeline([], GaussianBlur(1.0))


def test_masks_come_in_any_shape_and_from_a_file(tmp_path):
    mask = (torch.rand(8, 6) > 0.5).float()
    expected = RandomInpainting(mask[None, None]).params["mask"]
    for given in (mask, mask[None], mask.numpy()):
        assert torch.equal(RandomInpainting(given).params["mask"], expected)
    Image.fromarray((mask.numpy() * 255).astype("uint8")).save(tmp_path / "mask.png")
    assert torch.equal(RandomInpainting.from_file(tmp_path / "mask.png").params["mask"], expected)
    assert torch.equal(RandomInpainting.from_file(str(tmp_path / "mask.png")).params["mask"], expected)
    with pytest.raises(InputError, match="from_file"):
        RandomInpainting("mask.png")


def test_a_result_is_shown_in_a_line(tiny_pipeline):
    y = torch.rand(2, 3, 32, 48)
    found = tiny_pipeline(y, GaussianBlur(1.0), settings=FEW, num_samples=2)
    shown = repr(found)
    severity = f"mean severity {float(found.severity.mean()):.3g}"
    assert shown.startswith(f"Restoration(2 images of 48x32, 2 samples of each, {severity}, start step ")
    assert ", nfe " in shown and shown.endswith(", 0 failed)") and "\n" not in shown
    from_noise = repr(tiny_pipeline(y, GaussianBlur(1.0), solver="latent-dps", start="noise", steps=4))
    assert from_noise == "Restoration(2 images of 48x32, start step 1000, nfe 4, 0 failed)"


def test_a_result_is_shown_without_the_figures_of_those_that_failed(tiny_pipeline):
    y = torch.rand(2, 3, 32, 32)
    y[1] = torch.nan
    with pytest.warns(UserWarning, match="1 of 2 images failed"):
        found = tiny_pipeline(y, GaussianBlur(1.0), solver="latent-dps", steps=4, start="flash")
    shown = repr(found)
    assert f"mean severity {float(found.severity[0]):.3g}, start step {int(found.start_step[0])}, nfe " in shown
    assert shown.endswith(f"nfe {int(found.nfe[0])}, 1 failed)")


def test_a_pipeline_is_shown_in_a_few_lines():
    pipe = FlashPipeline.from_pretrained(dtype=torch.bfloat16)
    kinds = ", ".join(pipe.severity_encoder.config.conditions)
    assert "gaussian-blur" in kinds
    assert repr(pipe).splitlines() == [
        "FlashPipeline(faces-128)",
        "  images    trained on 128 x 128 pixels; any from 16 pixels a side, padded to multiples of 16",
        "  latents   8 x H/4 x W/4 for images of H x W",
        f"  severity  can be told noise, lost pixels, {kinds}",
        "  method    flash(proximal) by default",
        "  runs on   cpu, bfloat16",
    ]


def test_a_pipeline_is_shown_without_what_it_lacks(tiny_pipeline, tiny_model):
    assert repr(FlashPipeline.from_pretrained(tiny_model)).startswith(f"FlashPipeline({tiny_model})\n")
    shown = repr(FlashPipeline(tiny_pipeline.prior)).splitlines()
    assert shown[0] == "FlashPipeline()" and shown[1].startswith("  images    any from 8 pixels a side")
    assert "no encoder: images start from noise" in shown[3] and "latent-dps by default" in shown[4]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a device that is missing")
def test_a_missing_device_is_told_in_a_line():
    with pytest.raises(InputError, match="device 'cuda' cannot be used here"):
        FlashPipeline.from_pretrained(device="cuda")
