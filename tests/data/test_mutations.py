"""Files with any bytes changed are read, or refused with one of our own errors."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from flashdiffusion.data import ImageDataset, MeasurementFile, decode_image
from flashdiffusion.errors import InputError

KINDS = ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "TGA"]


def _mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, most of them in the header; sometimes cut."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        end = len(changed) if rng.random() < 0.3 else min(160, len(changed))
        changed[rng.integers(end)] = rng.integers(256)
    return bytes(changed[: rng.integers(1, len(changed))] if rng.random() < 0.1 else changed)


@pytest.mark.parametrize("kind", KINDS)
def test_images(kind, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    stream, rng = io.BytesIO(), np.random.default_rng(0)
    Image.effect_noise((24, 24), 90).convert("RGB").save(stream, kind)
    for _ in range(60):
        try:
            assert decode_image(_mutated(stream.getvalue(), rng), "mutated").info["notes"] is not None
        except InputError:
            continue


def test_measurements_and_shards(tmp_path):
    rng, path, shard = np.random.default_rng(0), tmp_path / "m.safetensors", tmp_path / "s.tar"
    MeasurementFile("a", torch.zeros(3, 4, 4), "gaussian-blur", {"std": torch.ones(1)}, 0.1).save(path)
    with tarfile.open(tmp_path / "whole.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("a.png")
        member.pax_headers = {"comment": "c"}
        tar.addfile(member)
    whole, whole_tar = path.read_bytes(), (tmp_path / "whole.tar").read_bytes()
    for _ in range(100):
        path.write_bytes(_mutated(whole, rng))
        shard.write_bytes(_mutated(whole_tar, rng))
        for read in (lambda: MeasurementFile.load(path), lambda: ImageDataset([shard], 8)):
            try:
                read()
            except InputError:
                continue
