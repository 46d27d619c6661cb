"""Latents that are kept: those of the images and their mirror images, made once, and for one encoder alone."""

import torch
from PIL import Image

from flashdiffusion.data import ImageDataset
from flashdiffusion.training.latents import Latents


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


def test_the_next_image_stands_in_for_a_damaged_one(tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (16, 16), (255, 0, 0)).save(folder / "b.png")
    (folder / "a.png").write_bytes(b"damaged")
    latents, _ = _latents(folder, tmp_path)
    assert torch.equal(latents.rows([0]), latents.rows([1]))
    assert "a.png" in capsys.readouterr().err
