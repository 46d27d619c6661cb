"""Latents that are kept: those of the images and their mirror images, made once, and for one encoder alone."""

import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from flashdiffusion.data import ImageDataset
from flashdiffusion.errors import InputError
from flashdiffusion.priors import DiffusersAutoencoder
from flashdiffusion.training.latents import Latents, digest


class _Encoder:
    """Gives images as latents, and counts them."""

    def __init__(self):
        self.count = 0

    def __call__(self, x):
        self.count += len(x)
        return x + 1


def _latents(folder, out, name="a"):
    encoder = _Encoder()
    return Latents(ImageDataset([folder], 16), encoder, (3, 16, 16), name, out), encoder


def test_are_made_once_and_kept(image_folder, tmp_path):
    latents, encoder = _latents(image_folder, tmp_path)
    images = latents.data.batch([3, 0, 5])
    expected = torch.stack([images + 1, images.flip(-1) + 1], dim=1)
    for _ in range(2):
        torch.testing.assert_close(latents.rows([3, 0, 5]).float(), expected, atol=1e-3, rtol=0)
        assert encoder.count == 6
    again, encoder = _latents(image_folder, tmp_path)
    assert torch.equal(again.rows([0, 1])[0], latents.rows([0])[0])
    assert encoder.count == 2  # of image 1


def test_belong_to_one_encoder_and_one_set_of_images(image_folder, tmp_path):
    _latents(image_folder, tmp_path)[0].rows([0])
    other, encoder = _latents(image_folder, tmp_path, "b")
    other.rows([0])
    fewer = Latents(ImageDataset([image_folder], 16, limit=4), encoder, (3, 16, 16), "a", tmp_path)
    fewer.rows([0])
    assert encoder.count == 4
    assert len(list(tmp_path.glob("latents-*"))) == 3


def test_belong_to_the_files_and_not_to_their_names(tmp_path):
    found = []
    for name, colour in (("one", 0), ("two", 255)):
        folder = tmp_path / name
        folder.mkdir()
        Image.new("RGB", (16, 16), (colour,) * 3).save(folder / "a.png")
        found.append(_latents(folder, tmp_path)[0].rows([0]))
    assert float(found[0].max()) == 1 and float(found[1].min()) == 2


def test_the_scale_of_latents_is_part_of_an_encoder():
    layout = {"down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"]}
    torch.manual_seed(0)
    model = AutoencoderKL(**layout, block_out_channels=[8], norm_num_groups=4, latent_channels=4, scaling_factor=1.0)
    before = digest(DiffusersAutoencoder(model))
    assert digest(DiffusersAutoencoder(model)) == before
    model.register_to_config(scaling_factor=0.5)
    assert digest(DiffusersAutoencoder(model)) != before


def test_a_row_that_was_not_finished_is_made_again(image_folder, tmp_path):
    latents, encoder = _latents(image_folder, tmp_path)
    latents._rows[2, 0, 0, :3] = 7  # as a kill in the middle of writing leaves it
    images = latents.data.batch([2])
    torch.testing.assert_close(latents.rows([2])[:, 0].float(), images + 1, atol=1e-3, rtol=0)
    assert encoder.count == 2


def test_no_room_is_said(image_folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(InputError, match=r"cannot keep 0\.0 GiB of latents in .*: No space left"):
        _latents(image_folder, tmp_path)


def test_the_next_image_stands_in_for_a_damaged_one(tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (16, 16), (255, 0, 0)).save(folder / "b.png")
    (folder / "a.png").write_bytes(b"damaged")
    latents, _ = _latents(folder, tmp_path)
    assert torch.equal(latents.rows([0]), latents.rows([1]))
    assert "a.png" in capsys.readouterr().err
