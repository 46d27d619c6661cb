import pytest
import torch

from flashdiffusion.errors import InputError
from flashdiffusion.priors import PatchAutoencoder
from flashdiffusion.severity import Conditions, PatchSeverityEncoder, filled, interpolated
from local_model import UNET

SIZE = 32


def _ramp(count: int = 1) -> torch.Tensor:
    return torch.linspace(0, 1, SIZE).view(1, 1, 1, -1).expand(count, 3, SIZE, SIZE)


def _boxed() -> torch.Tensor:
    known = torch.ones(1, 1, SIZE, SIZE)
    known[:, :, 8:20, 10:22] = 0
    return known


def _scattered(count: int, share: float) -> torch.Tensor:
    return (torch.rand(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) < share).float()


def test_filling_keeps_what_is_known_and_goes_on_smoothly():
    known = _boxed()
    result = filled(_ramp() * known, known)
    torch.testing.assert_close(result * known, _ramp() * known)
    assert float((result - _ramp()).abs().max()) < 0.15
    assert bool(filled(torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)).isfinite().all())


def test_interpolation_is_closer_than_filling_and_keeps_what_is_known():
    known = _scattered(2, 0.25)
    measured = _ramp(2) * known
    result = interpolated(measured, 1 - known)
    torch.testing.assert_close(result * known, measured)
    inside = (..., slice(2, -2), slice(2, -2))  # a ramp ends at the border, where a mean of neighbours goes on level
    away = [float((x - _ramp(2))[inside].square().mean()) for x in (result, filled(measured, known))]
    assert away[0] < 0.5 * away[1]


def test_interpolation_is_per_image():
    known = _scattered(3, 0.5)
    known[1] = 1  # nothing is lost
    measured = _ramp(3) * known
    together = interpolated(measured, 1 - known)
    assert torch.equal(together[1], measured[1])
    alone = torch.cat([interpolated(measured[i : i + 1], 1 - known[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)


def test_what_is_far_away_has_no_say_in_an_interpolation():
    known = _scattered(1, 0.25)
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * known
    changed = image.clone()
    changed[..., -4:] = 1 - changed[..., -4:]
    near, far = (interpolated(one, 1 - known) for one in (image, changed))
    assert torch.equal(near[..., :8], far[..., :8])
    assert not torch.equal(near[..., -8:], far[..., -8:])


def test_an_image_that_is_lost_as_a_whole_stays_finite():
    assert bool(interpolated(torch.zeros(1, 3, 8, 8), torch.ones(1, 1, 8, 8)).isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_known_pixel_says_all(dtype):
    lost = torch.ones(1, 1, 1500, 40)
    lost[..., 3, 5] = 0
    result = interpolated(torch.full((1, 3, 1500, 40), 0.75, dtype=dtype) * (1 - lost).to(dtype), lost.to(dtype))
    assert result.dtype == dtype
    assert float((result - 0.75).abs().max()) < 0.01


def test_an_encoder_on_patches_begins_with_the_interpolation_of_what_it_is_told_was_lost():
    autoencoder = PatchAutoencoder()
    encoder = PatchSeverityEncoder.of(autoencoder, UNET, ["jpeg"])
    lost = 1 - _scattered(1, 0.25)
    y = _ramp() * (1 - lost)
    known = Conditions(torch.tensor([0.02]), lost, [""], torch.ones(1))
    expected = {"told": autoencoder.encode(interpolated(y, lost)), "blind": autoencoder.encode(y)}
    torch.testing.assert_close(encoder(y, known).z_hat, expected["told"])
    torch.testing.assert_close(encoder(y).z_hat, expected["blind"])
    older = PatchSeverityEncoder(**{**encoder.config, "interpolates": False})
    torch.testing.assert_close(older(y, known).z_hat, expected["blind"])


def test_an_encoder_on_patches_starts_from_one_that_was_told_the_same():
    autoencoder = PatchAutoencoder()
    first, second = (PatchSeverityEncoder.of(autoencoder, UNET, ["jpeg", "defocus"]) for _ in range(2))
    second.start_from(first)
    for own, other in zip(second.parameters(), first.parameters(), strict=True):
        assert torch.equal(own, other)
    swapped = PatchSeverityEncoder.of(autoencoder, UNET, ["defocus", "jpeg"])
    with pytest.raises(InputError, match=r"knows \['jpeg', 'defocus'\]; this one knows \['defocus', 'jpeg'\]"):
        swapped.start_from(first)
