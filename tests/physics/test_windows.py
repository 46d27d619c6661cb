"""Parts of a picture: A of a window is the window of A, but for a halo along borders that the picture has not."""

import pytest
import torch

from examples import examples
from flashdiffusion.errors import InputError
from flashdiffusion.physics import (
    PHYSICS,
    BatchedPhysics,
    Blur,
    BoxInpainting,
    Compose,
    Defocus,
    GaussianBlur,
    Mixed,
    MotionBlur,
    RandomInpainting,
    SuperResolution,
    Window,
)

SIZE = (120, 104)
PARTS = (Window(0, 0, 80, 64), Window(32, 16, 80, 88), Window(16, 32, 104, 64), Window(0, 0, *SIZE))
GLOBAL = {"phase-retrieval", "blur-kernel-space"}
MADE = [
    *(one for made in examples(SIZE).values() for one in made),
    Compose(SuperResolution(2), GaussianBlur([0.5, 1.0, 1.5, 2.0])),
    Compose(RandomInpainting(torch.ones(4, 1, *SIZE)), SuperResolution(4)),
    Mixed([(torch.tensor([0, 2]), GaussianBlur([1.0, 2.0])), (torch.tensor([3, 1]), Defocus([1.5, 3.0]))]),
]
LOCAL = [one for one in MADE if one.halo is not None]


def _named(physics: BatchedPhysics) -> str:
    return physics.names[0]


def _inner(part: Window, halo: int) -> Window:
    """The part without the halo along borders that the picture has not."""
    top, left = halo * (part.top > 0), halo * (part.left > 0)
    bottom, right = halo * (part.top + part.height < SIZE[0]), halo * (part.left + part.width < SIZE[1])
    return Window(top, left, part.height - top - bottom, part.width - left - right)


def _within(part: Window, side: int) -> Window:
    """Pixels of y that lie in a part of x, all of them."""
    top, left = -(-part.top // side), -(-part.left // side)
    return Window(top, left, (part.top + part.height) // side - top, (part.left + part.width) // side - left)


@pytest.mark.parametrize("part", PARTS, ids=str)
@pytest.mark.parametrize("physics", LOCAL, ids=_named)
def test_a_of_a_window_is_the_window_of_a(physics, part):
    x = torch.rand(4, 3, *SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    physics.check_size(SIZE)
    own = physics.window(part)
    assert type(own) is type(physics) and own.names == physics.names
    assert torch.equal(own.noise_std, physics.noise_std)
    assert not any(one % physics.alignment for one in (part.top, part.left))
    seen = part.in_units(physics.pixel_size).of(physics.A(x))
    measured = own.A(part.of(x))
    assert measured.shape == seen.shape
    inner = _within(_inner(part, physics.halo), physics.pixel_size)
    assert inner.height > 4 and inner.width > 4
    torch.testing.assert_close(inner.of(measured), inner.of(seen), rtol=0, atol=1e-6)


def test_every_operator_but_those_of_the_whole_picture_can_be_cut():
    cut = {one.name for one in LOCAL}
    assert cut == {*PHYSICS, "mixed"} - GLOBAL


@pytest.mark.parametrize("physics", [one for one in MADE if one.halo is None], ids=_named)
def test_one_of_the_whole_picture_cannot(physics):
    with pytest.raises(InputError, match="cannot be cut into tiles: a measurement depends on the whole picture"):
        physics.window(PARTS[0])


def test_ones_own_operator_is_taken_to_be_of_the_whole_picture():
    class Own(BatchedPhysics):
        name = "own"

        def A(self, x):
            return x

    assert Own({}, 0.05).halo is None
    assert Compose(Own({}, 0.05), GaussianBlur(1.0)).halo is None


@pytest.mark.parametrize(
    ("physics", "halo"),
    [
        (GaussianBlur([0.5, 2.0]), 8),
        (GaussianBlur(0.0), 0),
        (Blur(torch.ones(4, 7)), 3),
        (MotionBlur.from_line(6.0), 3),
        (Defocus(0.5), 0),
        (Defocus(3.0), 3),
        (SuperResolution(4), 8),
        (SuperResolution(1), 0),
        (Compose(SuperResolution(4), GaussianBlur(2.0)), 8 + 4 * 8),
        (Compose(GaussianBlur(2.0), SuperResolution(4)), 8 + 8),
    ],
)
def test_the_halo_is_the_reach_of_the_kernel(physics, halo):
    assert physics.halo == halo


def test_alignment_and_the_size_of_a_pixel_multiply():
    physics = Compose(Compose(SuperResolution(2), SuperResolution(3)), GaussianBlur(1.0))
    assert (physics.alignment, physics.pixel_size) == (6, 6)


def test_a_box_is_cut_where_the_window_is():
    box = BoxInpainting([0, 60], [10, 90], [50, 30], [30, 14])
    own = box.window(Window(20, 20, 64, 64))
    assert {key: value.tolist() for key, value in own.params.items()} == {
        "top": [0, 40],
        "left": [0, 64],
        "height": [30, 24],
        "width": [20, 0],
    }


@pytest.mark.parametrize("physics", [RandomInpainting(torch.ones(1, 1, 40, 40)), BoxInpainting(30, 0, 20, 5)])
def test_one_of_another_size_is_refused_before_it_is_cut(physics):
    with pytest.raises(InputError, match=r"mask of|does not fit"):
        physics.check_size((44, 40))
    with pytest.raises(InputError, match=r"mask of|does not fit"):
        Compose(GaussianBlur(1.0), physics).check_size((44, 40))
