"""What the severity encoder can be told: planes, what is forgotten, what each physics says, and that it is used."""

import math

import pytest
import torch
from diffusers import AutoencoderKL
from test_severity import LAYOUT

from flashdiffusion.physics import (
    JPEG,
    BoxInpainting,
    CameraShake,
    Compose,
    Denoising,
    GaussianBlur,
    Mixed,
    RandomInpainting,
    SuperResolution,
)
from flashdiffusion.priors import DiffusersAutoencoder, load_component
from flashdiffusion.severity import Conditions, SeverityEncoder
from flashdiffusion.severity.conditions import UNIT, count_numbers
from flashdiffusion.solvers import Problem

KINDS = ["gaussian-blur", "random-inpainting"]


def _autoencoder() -> DiffusersAutoencoder:
    torch.manual_seed(0)
    return DiffusersAutoencoder(AutoencoderKL(**LAYOUT, latent_channels=4, scaling_factor=1.0)).eval()


def _encoder(listens: bool = True) -> SeverityEncoder:
    """An encoder with conditions, whose weights for them are 0 unless it `listens`."""
    encoder = SeverityEncoder.from_autoencoder(_autoencoder(), refine_layers=1, conditions=KINDS).eval()
    if listens:
        torch.nn.init.normal_(encoder.encoder.conv_in.weight)
    return encoder.requires_grad_(False)


def _y(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def _known() -> Conditions:
    lost = torch.zeros(3, 1, 16, 16)
    lost[1, :, :8] = 1
    kinds = ["gaussian-blur", "random-inpainting", "jpeg"]
    return Conditions(torch.tensor([0.1, torch.nan, 0.0]), lost, kinds, torch.tensor([0.1, 0.5, 0.01]))


def test_planes_show_what_is_known_and_nothing_else():
    planes = _known().planes(KINDS)
    assert planes.shape == (3, 6, 16, 16)
    assert torch.equal(planes[:, :1], _known().lost)
    half = math.log10(2) ** 0.5
    expected = torch.tensor([[1, 0.1 / UNIT, 1, 1, 0], [0, 0, half, 0, 1], [1, 0, 0, 0, 0]])  # it knows no JPEG
    torch.testing.assert_close(planes[:, 1:, 3, 5], expected)
    assert bool((Conditions.none(_y()).planes(KINDS) == 0).all())


def test_the_summary_is_the_planes_and_powers():
    known = _known().summary(KINDS)
    assert known.shape == (3, count_numbers(KINDS))
    s = 0.1 / UNIT
    expected = [1, s, 1, 1, 0, 0, s**2, 1, s**4, 1, s, 0]  # ..., lost, squares, fourth powers, product, mildness
    assert known[0].tolist() == pytest.approx(expected)
    r = math.log10(2) ** 0.5
    assert known[1].tolist() == pytest.approx([0, 0, r, 0, 1, 0.5, 0, r**2, 0, r**4, 0, 1 - r])
    blind = torch.zeros(12)
    blind[-1] = 1
    assert torch.equal(Conditions.none(_y()).summary(KINDS), blind.expand(3, -1))


def test_what_is_forgotten_is_not_in_the_planes():
    yes, no = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)
    planes = [_known().without(*forget).planes(KINDS) for forget in ((yes, no, no), (no, yes, no), (no, no, yes))]
    assert bool((_known().without(no, no, yes).kept == 1).all())
    whole = _known().planes(KINDS)
    for forgotten, part in zip(planes, (slice(1, 3), slice(0, 1), slice(3, 6)), strict=True):
        assert bool((forgotten[:, part] == 0).all())
        forgotten[:, part] = whole[:, part]
        assert torch.equal(forgotten, whole)


def test_conditions_start_without_any_effect():
    encoder, expected = _encoder(listens=False), _autoencoder().encode(_y())
    for known in (None, _known()):
        torch.testing.assert_close(encoder(_y(), known).z_hat, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(encoder(_y(), _known()).map, encoder(_y()).map)


def test_the_head_is_told_too():
    encoder = _encoder(listens=False)
    torch.nn.init.normal_(encoder.modulation[-1].weight)
    together, silent = encoder(_y(), _known()), encoder(_y())
    assert torch.equal(together.z_hat, silent.z_hat)
    assert bool(((together.var - silent.var).abs() > 1e-3 * silent.var).all())
    known = _known()
    own = Conditions(known.noise_std[[1]], known.lost[[1]], known.kinds[1:2], known.kept[[1]])
    torch.testing.assert_close(encoder(_y()[[1]], own).map[0], together.map[1], atol=1e-5, rtol=1e-5)


def test_an_encoder_that_listens_gives_each_image_its_own(tmp_path):
    encoder = _encoder()
    together = encoder(_y(), _known()).z_hat
    assert not torch.allclose(together, encoder(_y()).z_hat)
    for row in range(3):
        known = _known()
        own = Conditions(known.noise_std[[row]], known.lost[[row]], [known.kinds[row]], known.kept[[row]])
        torch.testing.assert_close(encoder(_y()[[row]], own).z_hat[0], together[row], atol=1e-5, rtol=1e-5)
    encoder.save_pretrained(tmp_path)
    assert torch.equal(load_component(SeverityEncoder, tmp_path)(_y(), _known()).z_hat, together)


def test_an_encoder_without_conditions_hears_nothing():
    encoder = SeverityEncoder.from_autoencoder(_autoencoder()).eval()
    assert torch.equal(encoder(_y(), _known()).z_hat, encoder(_y()).z_hat)


def test_goes_on_from_an_encoder_without_conditions():
    deaf = SeverityEncoder.from_autoencoder(_autoencoder()).eval()
    torch.nn.init.normal_(deaf.encoder.conv_in.weight)
    encoder = _encoder()
    encoder.start_from(deaf)
    torch.testing.assert_close(encoder(_y(), _known()).z_hat, deaf(_y()).z_hat)


def test_goes_on_from_an_encoder_of_other_kinds_by_their_names():
    first = SeverityEncoder.from_autoencoder(_autoencoder(), conditions=["gaussian-blur", "jpeg"])
    torch.nn.init.normal_(first.encoder.conv_in.weight)
    second = SeverityEncoder.from_autoencoder(_autoencoder(), conditions=["jpeg", "random-inpainting"])
    second.start_from(first)
    old, new = first.encoder.conv_in.weight, second.encoder.conv_in.weight
    assert torch.equal(new[:, :7], old[:, :7])  # the image, and what every encoder is told
    assert torch.equal(new[:, 7], old[:, 8]) and not bool(new[:, 8].any())
    assert not bool(second.modulation[-1].weight.any())


def test_goes_on_with_the_modulation_of_the_same_kinds():
    first, second = _encoder(), _encoder(listens=False)
    torch.nn.init.normal_(first.modulation[-1].weight)
    second.start_from(first)
    assert torch.equal(second(_y(), _known()).map, first(_y(), _known()).map)


def test_a_problem_says_what_is_known_of_each_image():
    mask = (torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    blur, inpainting = GaussianBlur([1.0, 2.0], noise_std=[0.1, 0.0]), RandomInpainting(mask, 0.2)
    mixed = Mixed([(torch.tensor([0, 2]), blur), (torch.tensor([1]), inpainting)])
    known = Problem(mixed.A(_y()), mixed).conditions
    assert known.kinds == ["gaussian-blur", "random-inpainting", "gaussian-blur"]
    assert known.noise_std.tolist() == pytest.approx([0.1, 0.2, 0.0])
    assert torch.equal(known.lost[1], 1 - mask[0]) and not bool(known.lost[[0, 2]].any())
    composed = Compose(GaussianBlur([1.0, 2.0, 1.0]), JPEG([50.0] * 3, 0.1))
    assert Problem(_y(), composed).conditions.kinds == ["gaussian-blur+jpeg"] * 3


def test_noise_is_known_only_where_the_image_shows_it():
    small = SuperResolution(2, noise_std=0.1)
    assert bool(Problem(small.A(_y()), small).conditions.noise_std.isnan().all())
    nothing = Problem(_y()).conditions
    assert bool(nothing.noise_std.isnan().all()) and nothing.kinds == ["", "", ""] and not bool(nothing.lost.any())


@pytest.mark.parametrize(
    ("physics", "kept"),
    [
        (GaussianBlur([0.0, 1.0, 2.0]), [1.0, 1 / (4 * math.pi), 1 / (16 * math.pi)]),
        (Denoising(0.1), [1.0] * 3),
        (BoxInpainting(0, 0, 32, 64), [0.5] * 3),
        (SuperResolution(2), [1.0] * 3),  # measurements of another size say nothing
    ],
)
def test_what_an_operator_keeps_of_white_noise(physics, kept):
    x = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    physics = physics.expand(3)
    found = Problem(physics.A(x), physics).conditions.kept
    torch.testing.assert_close(found, torch.tensor(kept), rtol=0.15, atol=0)


def test_what_an_operator_keeps_does_not_depend_on_the_precision_around():
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for physics in (GaussianBlur([3.0, 1.0]), CameraShake.from_std([3.0, 1.0], torch.Generator().manual_seed(0))):
        y = physics.A(x)
        with torch.autocast("cpu", torch.bfloat16):
            found = Problem(y, physics).conditions.kept
        torch.testing.assert_close(found, Problem(y, physics).conditions.kept)
        half = Problem(y.bfloat16(), physics).conditions.kept.float()
        torch.testing.assert_close(half, Problem(y, physics).conditions.kept, rtol=0.02, atol=0)


def test_what_a_nonlinear_operator_keeps_falls_with_its_blur():
    x = torch.full((2, 3, 64, 64), 0.5)
    shake = CameraShake.from_std([0.5, 3.0], torch.Generator().manual_seed(0))
    mild, strong = Problem(shake.A(x), shake).conditions.kept.tolist()
    assert 0 < strong < mild / 2 < 0.5


def test_one_physics_of_one_row_says_it_of_all():
    assert Problem(_y(), BoxInpainting(2, 2, 4, 4)).conditions.kinds == ["box-inpainting"] * 3


def test_a_pipeline_tells_its_encoder(tiny_pipeline, monkeypatch):
    physics = GaussianBlur([1.0, 2.0], noise_std=0.1)
    y = physics(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    told, forward = [], SeverityEncoder.forward

    def noting(self, y, known=None):
        told.append(known)
        return forward(self, y, known)

    monkeypatch.setattr(SeverityEncoder, "forward", noting)
    tiny_pipeline.severity(y, physics)
    tiny_pipeline(y, physics, seed=0)
    tiny_pipeline.severity(y)
    assert bool(tiny_pipeline.severity(y, GaussianBlur(1.0)).var.isfinite().all()), "one row of parameters for both"
    told = told[:3]
    assert [known.kinds for known in told] == [["gaussian-blur"] * 2] * 2 + [["", ""]]
    assert [known.noise_std.isfinite().tolist() for known in told] == [[True, True]] * 2 + [[False, False]]
