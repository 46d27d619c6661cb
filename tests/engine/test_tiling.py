"""How pictures are cut: overlaps, weights, noise by place."""

from itertools import pairwise

import pytest
import torch

from flashdiffusion.engine.noise import ImageNoise, TileNoise
from flashdiffusion.engine.tiling import BLEND, Axis, Tiling
from flashdiffusion.errors import InputError
from flashdiffusion.physics import JPEG, Compose, Denoising, GaussianBlur, SuperResolution, Window

CUTS = [
    (side, tile, step, halo)
    for side in (65, 97, 100, 256, 1000)
    for tile, step, halo in ((64, 4, 0), (64, 8, 3), (64, 16, 8), (80, 4, 20), (96, 48, 0))
]


@pytest.mark.parametrize(("side", "tile", "step", "halo"), CUTS)
def test_weights_sum_to_1_and_are_0_in_the_halo_of_cut_borders(side, tile, step, halo):
    axis = Axis.cut(side, tile, step, halo)
    total = torch.zeros(side, dtype=torch.float64)
    for number, (begin, end) in enumerate(axis.spans):
        weights = axis.weights(number)
        assert bool((weights >= 0).all())
        total[begin:end] += weights
        if begin > 0:
            assert not weights[:halo].any()
        if end < side:
            assert not weights[len(weights) - halo :].any()
    torch.testing.assert_close(total, torch.ones(side, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("side", "tile", "step", "halo"), CUTS)
def test_tiles_are_aligned_and_overlap_enough(side, tile, step, halo):
    spans = Axis.cut(side, tile, step, halo).spans
    assert spans[0][0] == 0 and spans[-1][1] == side
    for (_, end), (begin, beyond) in pairwise(spans):
        assert begin % step == 0 and end % step == 0 and beyond > end
        assert end - begin >= 2 * halo + tile / BLEND
    assert all(end - begin <= tile for begin, end in spans)


def test_weights_change_smoothly():
    axis = Axis.cut(256, 128, 4, 4)
    weights = axis.weights(0)
    assert float(weights.diff().abs().max()) < 0.12
    assert weights[0] == 1 and weights[-1] == 0


def test_a_side_that_fits_is_one_tile():
    assert Axis.cut(64, 64, 16, 100).spans == ((0, 64),)
    assert Axis.cut(40, 64, 16, 100).weights(0).tolist() == [1.0] * 40


def test_a_tile_smaller_than_the_halo_is_refused_in_one_line():
    with pytest.raises(InputError, match=r"tile is 32; expected at least 60 pixels: .* twice the halo of 24") as error:
        Axis.cut(100, 32, 4, 24)
    assert "\n" not in str(error.value)
    assert len(Axis.cut(100, 60, 4, 24).spans) > 1


@pytest.mark.parametrize(
    ("physics", "unit", "step"),
    [
        (Denoising(), 4, 4),
        (JPEG(50), 4, 16),
        (SuperResolution(3), 4, 12),
        (Compose(GaussianBlur(0.5), JPEG(50)), 8, 16),
    ],
)
def test_a_picture_is_cut_as_model_and_physics_need_it(physics, unit, step):
    tiling = Tiling.cut((240, 180), 132, physics, unit)
    assert tiling is not None and tiling.size == (240, 180)
    total = torch.zeros(240, 180)
    for place in tiling.places:
        window = tiling.window(*place)
        assert window.top % step == 0 and window.left % step == 0
        window.of(total).add_(tiling.weights(*place))
    torch.testing.assert_close(total, torch.ones_like(total))


def test_weights_of_places_of_a_latent_sum_to_1_too():
    tiling = Tiling.cut((101, 90), 64, GaussianBlur(1.0), 8)
    total = torch.zeros(13, 12)
    for place in tiling.places:
        tiling.window(*place).in_units(8).of(total).add_(tiling.weights(*place, side=8))
    torch.testing.assert_close(total, torch.ones_like(total))


def test_tiles_of_one_size_follow_each_other():
    tiling = Tiling.cut((101, 90), 64, Denoising(), 8)
    sizes = [tiling.window(*place).size for place in tiling.places]
    assert sorted(sizes, reverse=True) == sizes and len(tiling.places) == tiling.shape[0] * tiling.shape[1]


def test_a_picture_that_is_no_larger_is_not_cut():
    assert Tiling.cut((64, 40), 64, GaussianBlur(3.0), 4) is None


def test_noise_of_overlapping_tiles_agrees():
    one, other = TileNoise(0, "a", Window(8, 20, 48, 48)), TileNoise(0, "a", Window(40, 0, 40, 64))
    for k in (None, 1, 7):
        left, right = one((2, 12, 48, 48), k), other((2, 12, 40, 64), k)
        assert left.shape == (2, 12, 48, 48) and right.shape == (2, 12, 40, 64)
        assert torch.equal(left[..., 32:, :44], right[..., :16, 20:])
        assert not torch.equal(left, one((2, 12, 48, 48), 3))
    noise = one((1, 12, 48, 48), 5)
    assert torch.equal(noise, one((1, 12, 48, 48), 5))
    assert abs(float(noise.mean())) < 0.03 and abs(float(noise.std()) - 1) < 0.02
    for changed in (TileNoise(1, "a", one.window), TileNoise(0, "b", one.window)):
        assert not torch.equal(noise, changed((1, 12, 48, 48), 5))


def test_noise_of_a_whole_image_is_drawn_one_after_the_other():
    source = ImageNoise(torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    for shape, k in (((2, 4, 4), None), ((1, 2, 4, 4), 9)):
        assert torch.equal(source(shape, k), torch.randn(shape, generator=generator))
