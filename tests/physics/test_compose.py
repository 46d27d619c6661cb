import copy
import pickle

import pytest
import torch

from flashdiffusion.errors import InputError
from flashdiffusion.physics import (
    HDR,
    JPEG,
    Compose,
    GaussianBlur,
    PhaseRetrieval,
    SuperResolution,
    concatenate,
    is_linear,
)


def _x():
    return torch.rand(2, 3, 24, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_is_one_after_the_other_with_the_noise_of_the_second():
    first, second = GaussianBlur([1.0, 2.0], 0.3), JPEG([20, 80], [0.01, 0.02])
    physics = Compose(first, second)
    assert torch.equal(physics.A(_x()), second.A(first.A(_x())))
    assert physics.noise_std.tolist() == [0.01, 0.02]
    assert physics.take(torch.tensor([1])).noise_std.tolist() == [0.02]


def test_softens_and_discounts_the_rounding_of_either():
    blur, jpeg, x = GaussianBlur([1.0, 2.0]), JPEG([20, 80]), _x()
    variance = torch.tensor([1e-4, 4e-4], dtype=torch.float64)
    last, first = Compose(blur, jpeg), Compose(jpeg, blur)
    assert last.rounds and first.rounds and not Compose(blur, blur).rounds
    assert torch.equal(last.softened(x), jpeg.softened(blur.A(x)))
    assert torch.equal(first.softened(x), blur.A(jpeg.softened(x)))
    for physics in (last, first):
        assert torch.equal(physics.discounted(x, variance), jpeg.discounted(x, variance))
    assert torch.equal(Compose(blur, blur).discounted(x, variance), x)
    small = torch.rand(2, 3, 12, 10)
    assert torch.equal(Compose(jpeg, SuperResolution(2)).discounted(small, variance), small)
    mixed = concatenate([jpeg.take(torch.tensor([1])), blur.take(torch.tensor([0]))])
    one = jpeg.take(torch.tensor([1]))
    expected = torch.cat([one.softened(x[:1]), blur.take(torch.tensor([0])).A(x[1:])])
    torch.testing.assert_close(mixed.softened(x), expected)
    expected = torch.cat([one.discounted(x[:1], variance[:1]), x[1:]])
    torch.testing.assert_close(mixed.discounted(x, variance), expected)


def test_is_linear_if_both_are():
    blur, small = GaussianBlur([1.0, 2.0]), SuperResolution([2, 2])
    assert is_linear(Compose(blur, small))
    assert not is_linear(Compose(blur, JPEG([20, 80])))
    assert not hasattr(Compose(HDR([2.0, 2.0]), small), "A_adjoint")


def test_describes_both():
    described = Compose(GaussianBlur([1.0]), JPEG([20])).describe()
    assert described == [{"physics": "gaussian-blur+jpeg", "std": 1.0, "quality": 20.0, "compression": 80.0}]
    described = Compose(GaussianBlur([1.0]), GaussianBlur([2.0])).describe()
    assert described == [{"physics": "gaussian-blur+gaussian-blur", "std": 1.0, "second.std": 2.0}]


def test_its_image_is_of_the_first_s_size():
    physics = Compose(SuperResolution([2, 2]), PhaseRetrieval([2.0, 2.0]))
    y = physics.A(_x())
    assert y.shape == (2, 3, 18, 14) and physics.image(y).shape == _x().shape


def test_linear_ones_of_different_kinds_are_joined():
    one = Compose(Compose(GaussianBlur([1.0]), SuperResolution([2])), GaussianBlur([0.5]))
    two = Compose(Compose(SuperResolution([2]), GaussianBlur([1.0])), GaussianBlur([0.5]))
    together = concatenate([one, two, one])
    expected = torch.cat([part.A(_x()[:1]) for part in (one, two, one)])
    torch.testing.assert_close(together.A(_x()[[0, 0, 0]]), expected)
    assert is_linear(together.take(torch.tensor([1])))


def test_is_copied_and_pickled():
    for physics in (Compose(GaussianBlur([1.0, 2.0]), JPEG([20, 80])), Compose(*[GaussianBlur([1.0, 2.0])] * 2)):
        for again in (copy.deepcopy(physics), pickle.loads(pickle.dumps(physics))):
            assert type(again) is type(physics) and torch.equal(again.A(_x()), physics.A(_x()))


def test_refuses_parts_that_do_not_fit():
    with pytest.raises(InputError, match="for 3 and 2 images"):
        Compose(GaussianBlur([1.0] * 3), JPEG([20, 80]))
    params = Compose(GaussianBlur([1.0]), JPEG([20])).params
    unknown = params | {"kinds": torch.tensor([list(b"gaussian-blur+tiff")], dtype=torch.uint8)}
    with pytest.raises(InputError, match="composed of 'tiff'; this library knows"):
        Compose.from_params(unknown, 0.05)
    with pytest.raises(InputError, match="has the parameter"):
        Compose.from_params({k: v for k, v in params.items() if k != "second.quality"}, 0.05)
