import pytest
import torch
from PIL import Image

from flashdiffusion.errors import InputError
from flashdiffusion.physics import parse_physics


def _parse(text):
    return parse_physics(text, (16, 16), torch.Generator().manual_seed(0))


def test_reads_parameters():
    physics = _parse("gaussian-blur:std=2.5,noise_std=0.1")
    assert physics.describe() == [{"physics": "gaussian-blur", "std": 2.5}]
    assert physics.noise_std == 0.1
    assert float(_parse("random-inpainting:ratio=0.5").describe()[0]["ratio"]) == pytest.approx(0.5, abs=0.15)


def test_reads_a_mask_picture(tmp_path):
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (0, 0, 8, 16))
    mask.save(tmp_path / "mask.png")
    physics = _parse(f"random-inpainting:mask={tmp_path / 'mask.png'}")
    assert physics.params["mask"][0, 0, :, :8].all() and not physics.params["mask"][0, 0, :, 8:].any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gausian-blur:std=2", "gaussian-blur"),
        ("gaussian-blur", "expected gaussian-blur:std=NUMBER"),
        ("gaussian-blur:sdt=2", "std"),
        ("gaussian-blur:std=two", "expected a number"),
        ("gaussian-blur:std=-1", "blur std"),
        ("random-inpainting:ratio=1.5", "ratio"),
        ("gaussian-blur:std=1,noise_std=-1", "noise std"),
    ],
)
def test_names_what_is_wrong(text, message):
    with pytest.raises(InputError, match=message):
        _parse(text)
