"""Measurement files hold the exact tensors, and are told from other files."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flashdiffusion.data import MeasurementFile
from flashdiffusion.errors import CheckpointError, InputError


def _measurement() -> MeasurementFile:
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(2, 3, 8, 16, generator=generator)
    mask = (torch.rand(1, 1, 8, 16, generator=generator) > 0.5).float()
    return MeasurementFile("née/1", batch[1].transpose(1, 2), "random-inpainting", {"mask": mask}, 0.1 + 0.2)


def _metadata(path) -> dict[str, str]:
    with safe_open(path, framework="pt") as stream:
        return stream.metadata()


def test_a_round_trip_is_exact(tmp_path):
    saved = _measurement()
    saved.save(tmp_path / "m.safetensors")
    loaded = MeasurementFile.load(tmp_path / "m.safetensors")
    assert (loaded.id, loaded.physics, loaded.noise_std) == (saved.id, saved.physics, saved.noise_std)
    assert torch.equal(loaded.y, saved.y)
    assert loaded.params.keys() == saved.params.keys()
    assert torch.equal(loaded.params["mask"], saved.params["mask"])
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*absent\.safetensors: no such file"):
        MeasurementFile.load(tmp_path / "absent.safetensors")


def test_other_safetensors_are_no_measurement(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match="is no measurement; expected a file that `flashdiffusion degrade` wrote"):
        MeasurementFile.load(tmp_path / "weights.safetensors")


def test_another_version_is_refused_by_its_number(tmp_path):
    path = tmp_path / "m.safetensors"
    _measurement().save(path)
    save_file(load_file(path), path, _metadata(path) | {"version": "7"})
    with pytest.raises(CheckpointError, match="measurement of version 7; this library reads 1"):
        MeasurementFile.load(path)


@pytest.mark.parametrize("about", ["{", "[]", "{}", '{"id": "a", "physics": "b", "noise_std": null}'])
def test_damaged_metadata_is_refused(tmp_path, about):
    path = tmp_path / "m.safetensors"
    _measurement().save(path)
    save_file(load_file(path), path, _metadata(path) | {"measurement": about})
    with pytest.raises(CheckpointError, match=r"m\.safetensors is damaged or no measurement"):
        MeasurementFile.load(path)


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_truncated_file_is_refused(tmp_path, length):
    path = tmp_path / "m.safetensors"
    _measurement().save(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"m\.safetensors is damaged or no measurement"):
        MeasurementFile.load(path)


def test_a_file_without_its_measurement_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    _measurement().save(path)
    tensors = load_file(path)
    del tensors["y"]
    save_file(tensors, path, _metadata(path))
    with pytest.raises(CheckpointError, match="damaged or no measurement"):
        MeasurementFile.load(path)
