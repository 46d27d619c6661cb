"""The regressor: an image's restoration is its own, at any size, and survives saving."""

import pytest
import torch

from flashdiffusion.errors import CheckpointError, InputError
from flashdiffusion.priors import load_component
from flashdiffusion.regression import Regressor, load_regressor
from flashdiffusion.regression.swin import Windows, join, split


@pytest.fixture
def model() -> Regressor:
    """A small one whose correction is not zero, as a trained one's."""
    torch.manual_seed(0)
    model = Regressor(stride=2, width=12, depths=(2, 2), heads=2, window=4)
    torch.nn.init.normal_(model.tail.weight, std=0.1)
    return model.eval()


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def test_an_untrained_regressor_hands_its_input_back():
    y = images(2, 3, 32, 32)
    assert torch.equal(Regressor(width=12, depths=(2,), heads=2)(y), y)


@pytest.mark.parametrize("size", [(16, 16), (8, 8), (24, 40), (17, 30), (1, 5)])
def test_any_size_gives_an_image_of_that_size(model, size):
    y = images(2, 3, *size)
    x = model(y)
    assert x.shape == y.shape and bool(x.isfinite().all()) and not torch.equal(x, y)


def test_an_image_s_result_does_not_depend_on_its_batch(model):
    y = images(5, 3, 24, 16)
    alone = torch.cat([model(row[None]) for row in y])
    torch.testing.assert_close(model(y), alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(model(y.flip(0)).flip(0), alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_result_has_the_type_of_the_input(model, dtype):
    assert model(images(1, 3, 16, 16).to(dtype)).dtype == dtype


def test_half_precision_weights_restore_nearly_the_same(model):
    y = images(2, 3, 16, 16)
    expected = model(y)
    torch.testing.assert_close(model.to(torch.bfloat16)(y), expected, atol=0.05, rtol=0)


def test_split_and_join_are_inverse():
    x = images(2, 8, 12, 5)
    windows = split(x, 4)
    assert windows.shape == (12, 16, 5)
    assert torch.equal(windows[1].view(4, 4, 5), x[0, :4, 4:8])
    assert torch.equal(join(windows, x.shape, 4), x)


def test_shifted_windows_do_not_attend_across_the_borders():
    windows = Windows.of(8, 12, 4, torch.device("cpu"))
    # Where each place of a rolled image was before it was rolled.
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(12), indexing="ij")
    origin = torch.stack([rows, columns], dim=-1).roll((-2, -2), dims=(0, 1))
    origin = split(origin[None], 4)
    # Neighbours of one window lie less than a window apart, unless the roll brought them together.
    far = ((origin[:, :, None] - origin[:, None]).abs() >= 4).any(dim=-1)
    assert torch.equal(windows.blocked[:, 0] < 0, far) and bool(far.any())


def test_offsets_tell_relative_positions_apart():
    offsets = Windows.of(4, 4, 4, torch.device("cpu")).offsets
    assert offsets.shape == (16, 16) and offsets.unique().tolist() == list(range(49))
    assert offsets[0, 1] == offsets[5, 6] != offsets[1, 0]


def test_a_change_reaches_beyond_its_window(model):
    y = images(1, 3, 32, 32)
    changed = y.clone()
    changed[..., :2, :2] += 0.5
    moved = (model(changed) - model(y)).abs().sum(dim=1)[0] > 1e-6
    assert bool(moved[8:, 8:].any())


def test_saved_and_loaded_it_is_the_same(model, tmp_path):
    model.save_pretrained(tmp_path / "regressor")
    assert {p.suffix for p in (tmp_path / "regressor").iterdir()} == {".json", ".safetensors"}
    y = images(2, 3, 16, 24)
    assert torch.equal(load_component(Regressor, tmp_path / "regressor")(y), model(y))
    assert torch.equal(Regressor.from_pretrained(tmp_path / "regressor").eval()(y), model(y))


def test_one_that_fails_on_a_photograph_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert torch.equal(load_regressor(tmp_path)(images(1, 3, 16, 24)), model(images(1, 3, 16, 24)))
    torch.nn.init.constant_(model.tail.weight, 3e38)
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"its regressor gives .* for a photograph; expected .*, finite"):
        load_regressor(tmp_path)


def test_a_folder_of_another_config_or_class_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path / "regressor")
    config = tmp_path / "regressor" / "config.json"
    config.write_text(config.read_text().replace('"width": 12', '"width": 16'))
    with pytest.raises(CheckpointError, match="regressor"):
        load_component(Regressor, tmp_path / "regressor")
    config.write_text(config.read_text().replace("Regressor", "SeverityEncoder"))
    with pytest.raises(CheckpointError, match="holds a 'SeverityEncoder'; expected Regressor"):
        load_component(Regressor, tmp_path / "regressor")
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load_component(Regressor, tmp_path)


@pytest.mark.parametrize("change", [{"width": 13}, {"window": 5}])
def test_a_layout_that_cannot_be_is_refused(change):
    with pytest.raises(InputError, match="expected a width that heads divides and an even window"):
        Regressor(**({"width": 12, "heads": 2} | change))
