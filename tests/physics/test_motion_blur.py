import pytest
import torch

from flashdiffusion.errors import InputError
from flashdiffusion.physics import CameraShake, MotionBlur
from flashdiffusion.physics.mixed import concatenate


def _x():
    return torch.rand(1, 3, 40, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_line_of_no_length_is_the_identity():
    torch.testing.assert_close(MotionBlur.from_line([0.0], [30.0]).A(_x()), _x(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 90.0])
def test_a_line_averages_along_its_direction_only(angle):
    x = _x()
    stripes = x.mean(dim=3 if angle == 0 else 2, keepdim=True).expand_as(x)
    blurred = MotionBlur.from_line([9.0], [angle]).A(stripes)
    torch.testing.assert_close(blurred, stripes, rtol=0, atol=1e-6)
    assert float((MotionBlur.from_line([9.0], [90 - angle]).A(stripes) - stripes).abs().max()) > 0.01


def test_angles_run_counter_clockwise():
    kernel = MotionBlur.from_line([20.0], [45.0]).params["kernel"][0, 0]
    assert float(kernel[:15, 16:].sum()) > 0.4  # up and to the right
    assert float(kernel[:15, :15].sum()) == 0


def test_a_line_is_as_long_as_it_says():
    (described,) = MotionBlur.from_line([24.0], [0.0]).describe()
    assert described["std"] == pytest.approx(24 / 24**0.5, rel=0.02)  # L / sqrt(12) along it, 0 across
    assert (described["length"], described["angle"]) == (24, 0)


def test_a_line_is_known_by_length_and_angle_and_a_drawn_path_is_not():
    lines = MotionBlur.from_line([9.0, 12.0], 30.0)
    drawn = MotionBlur.from_std([2.0], torch.Generator().manual_seed(0))
    rows = concatenate([lines.take(torch.tensor([1])), drawn])
    line, path = MotionBlur.from_params(rows.params, 0.05).describe()
    assert (line["length"], line["angle"]) == (12, 30) and path.keys() == {"physics", "std"}
    (old,) = MotionBlur.from_params({"kernel": drawn.params["kernel"]}, 0.05).describe()
    assert old == path


def test_is_the_camera_shake_of_a_camera_without_response():
    drawn = MotionBlur.from_std(torch.tensor([2.0]), torch.Generator().manual_seed(0))
    shake = CameraShake(drawn.params["kernel"], 1.0)
    torch.testing.assert_close(drawn.A(_x()), shake.A(_x()))


@pytest.mark.parametrize(
    ("length", "angle"), [([-1.0], [0.0]), ([31.0], [0.0]), ([1.0], [float("nan")]), ([1.0, 2.0], [0.0, 1.0, 2.0])]
)
def test_refuses_lines_that_are_none(length, angle):
    with pytest.raises(InputError, match=r"motion (length|angle) is"):
        MotionBlur.from_line(length, angle)


def test_refuses_kernels_that_are_none_and_small_images():
    with pytest.raises(InputError, match="kernel of shape"):
        MotionBlur(torch.ones(1, 1, 5, 5))
    with pytest.raises(InputError, match="not a distribution"):
        MotionBlur(torch.ones(1, 1, 31, 31))
    with pytest.raises(InputError, match="more than 15"):
        MotionBlur.from_line([1.0], [0.0]).A(torch.zeros(1, 3, 15, 40))
