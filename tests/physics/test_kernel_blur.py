import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import convolve

from flashdiffusion.errors import InputError
from flashdiffusion.jobs.parse import parse_physics
from flashdiffusion.physics import Blur, concatenate


def _x(count=1):
    return torch.rand(count, 3, 24, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _kernel(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def _parse(text):
    return parse_physics(text, (24, 20), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (4, 4), (2, 7), (7, 2), (6, 1)])
def test_equals_scipys_convolution_centred_at_half_its_sides(shape):
    kernel = _kernel(*shape)
    taps = (kernel / kernel.sum()).numpy()
    expected = np.stack([convolve(one, taps, mode="mirror") for one in _x()[0].numpy()])
    torch.testing.assert_close(Blur(kernel).A(_x())[0], torch.from_numpy(expected), rtol=0, atol=1e-6)


def test_the_centre_of_an_even_kernel_is_the_later_of_its_middle_pixels():
    kernel = torch.zeros(4, 6)
    kernel[2, 3] = 1
    torch.testing.assert_close(Blur(kernel).A(_x()), _x())


def test_a_kernel_per_channel():
    kernel = _kernel(3, 4, 5)
    together = Blur(kernel)
    assert len(together) == 1
    parts = [Blur(kernel[channel]).A(_x(2)[:, [channel]]) for channel in range(3)]
    torch.testing.assert_close(together.A(_x(2)), torch.cat(parts, dim=1))
    shifted = torch.zeros(3, 5, 5)
    shifted[0, 2, 1], shifted[1, 2, 2], shifted[2, 2, 3] = 1, 1, 1  # as of a lens that spreads the colours
    x, y = _x(), Blur(shifted).A(_x())
    torch.testing.assert_close(y[:, 0, :, :-1], x[:, 0, :, 1:])
    torch.testing.assert_close(y[:, 1], x[:, 1])
    torch.testing.assert_close(y[:, 2, :, 1:], x[:, 2, :, :-1])


def test_a_kernel_per_image_and_channel():
    kernel = _kernel(2, 3, 5, 4)
    singles = [Blur(kernel[[n]], 0.1 * n) for n in range(2)]
    expected = torch.cat([one.A(_x(2)[[n]]) for n, one in enumerate(singles)])
    torch.testing.assert_close(Blur(kernel).A(_x(2)), expected)
    torch.testing.assert_close(concatenate(singles).A(_x(2)), expected)
    mixed = concatenate([Blur(kernel[[0]]), Blur(_kernel(5, 4))])
    torch.testing.assert_close(mixed.A(_x(2)), torch.cat([expected[:1], Blur(_kernel(5, 4)).A(_x(2)[1:])]))


def test_kernels_of_files(tmp_path):
    kernel = _kernel(3, 4, 5)
    np.save(tmp_path / "channels.npy", kernel.numpy())
    np.save(tmp_path / "last.npy", kernel.permute(1, 2, 0).numpy())
    for name in ("channels", "last"):
        torch.testing.assert_close(_parse(f"blur:kernel={tmp_path / name}.npy").A(_x()), Blur(kernel).A(_x()))
    pixels = (255 * _kernel(6, 5)).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(tmp_path / "kernel.png")
    expected = Blur(pixels.astype(np.float32)).A(_x())
    torch.testing.assert_close(_parse(f"blur:kernel={tmp_path / 'kernel.png'}").A(_x()), expected)
    np.save(tmp_path / "two.npy", _kernel(2, 1, 3, 3).numpy())
    with pytest.raises(InputError, match=r"two.npy holds 2 kernels.*give a folder"):
        _parse(f"blur:kernel={tmp_path / 'two.npy'}")
    np.save(tmp_path / "zero.npy", np.zeros((3, 3), np.float32))
    with pytest.raises(InputError, match=r"zero.npy has the sum 0; expected one above 0"):
        _parse(f"blur:kernel={tmp_path / 'zero.npy'}")


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (np.zeros((3, 3)), "kernel has the sum 0; expected one above 0, by which it is divided: .*Operator"),
        (np.array([[1.0, 0, -2]]), "kernel has the sum -1; expected one above 0"),
        (np.stack([np.ones((3, 3)), np.zeros((3, 3)), np.ones((3, 3))]), "kernel has the sum 0"),
        (np.array([[1.0, np.nan]]), r"kernel is nan at \[0, 1\]; expected finite values: replace it"),
        (np.array([[np.inf], [1.0]]), r"kernel is inf at \[0, 0\]; expected finite"),
        (np.ones(3), r"kernel of shape \(3,\); expected \(h, w\) for all images, \(3, h, w\)"),
        (np.ones((1, 1, 3, 3, 3)), r"kernel of shape \(1, 1, 3, 3, 3\); expected \(h, w\)"),
        (np.ones((4, 3, 3)), r"one per image; of one per image, pass kernel\[:, None\], \(4, 1, 3, 3\)"),
        (np.ones((2, 2, 3, 3)), r"kernel of shape \(2, 2, 3, 3\); expected"),
        (np.ones((0, 3)), r"kernel of shape \(0, 3\) is empty; expected at least one value"),
    ],
)
def test_says_what_is_wrong_with_a_kernel(kernel, said):
    with pytest.raises(InputError, match=said) as error:
        Blur(kernel)
    assert "\n" not in str(error.value)


def test_refuses_kernels_larger_than_the_image_or_for_other_channels():
    assert Blur(_kernel(24, 20)).A(_x()).shape == _x().shape
    for shape in ((25, 3), (3, 21)):
        with pytest.raises(
            InputError,
            match=r"kernel of .* for images of 24 x 20 pixels \(height x width\); expected one that is not larger",
        ):
            Blur(_kernel(*shape)).A(_x())
    with pytest.raises(InputError, match="3 kernels for 1 channels; expected one per channel"):
        Blur(_kernel(3, 3, 3)).A(_x()[:, :1])


def test_a_flipped_array_is_a_kernel_and_text_is_none():
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    kernel = np.arange(9.0).reshape(3, 3)
    torch.testing.assert_close(Blur(kernel[::-1, ::-1]).A(x), Blur(np.ascontiguousarray(kernel[::-1, ::-1])).A(x))
    with pytest.raises(InputError, match="kernel: "):
        Blur(np.array([["a"]]))
