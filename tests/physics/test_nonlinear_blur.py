import pytest
import torch

from flashdiffusion.errors import InputError
from flashdiffusion.physics import CameraShake
from flashdiffusion.physics.nonlinear_blur import kernel_std


def _drawn(std):
    return CameraShake.from_std(torch.as_tensor(std), torch.Generator().manual_seed(0))


def test_averages_light_and_not_pixel_values():
    """White beside black: half the light is 0.5^(1/2.2) of the scale, brighter than 0.5."""
    kernel = torch.zeros(1, 1, 31, 31)
    kernel[0, 0, 15, 14:16] = 0.5
    x = torch.zeros(1, 3, 32, 32)
    x[..., 16:] = 1
    y = CameraShake(kernel).A(x)
    edge = y[0, 0, 10, 15:18].tolist()
    assert sum(abs(value - 0.5 ** (1 / 2.2)) < 1e-3 for value in edge) == 1


def test_keeps_a_constant_image_and_is_the_identity_without_motion():
    x = torch.full((3, 3, 24, 20), 0.7)
    torch.testing.assert_close(_drawn([0.0, 1.0, 3.0]).A(x), x, rtol=1e-4, atol=1e-5)
    x = 0.1 + 0.8 * torch.rand(1, 3, 24, 20, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(_drawn([0.0]).A(x), x, rtol=1e-4, atol=1e-4)


def test_a_path_spreads_as_far_as_it_says():
    std = torch.linspace(0.5, 3, 40)
    drawn = kernel_std(_drawn(std).params["kernel"])
    assert float((drawn - std).abs().max()) < 0.2
    assert not torch.equal(_drawn([2.0, 2.0]).params["kernel"][0], _drawn([2.0, 2.0]).params["kernel"][1])


def test_says_path_and_response():
    (described,) = _drawn([2.0]).describe()
    assert described["gamma"] == pytest.approx(2.2) and abs(described["std"] - 2) < 0.2


@pytest.mark.parametrize("bad", [[-0.1], [11.0], [float("nan")]])
def test_refuses_std_out_of_range(bad):
    with pytest.raises(InputError, match="shake std"):
        _drawn(bad)


def test_refuses_kernels_and_responses_that_are_none():
    kernel = _drawn([1.0]).params["kernel"]
    with pytest.raises(InputError, match="not a distribution"):
        CameraShake(2 * kernel)
    for gamma in (0.0, float("nan")):
        with pytest.raises(InputError, match="gamma is"):
            CameraShake(kernel, gamma)
