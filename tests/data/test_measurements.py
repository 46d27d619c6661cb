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
    with pytest.raises(InputError, match=r"cannot read .*absent\.safetensors: No such file"):
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


def _raw(header: bytes, body: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + body


@pytest.mark.parametrize(
    "data",
    [
        _raw(b'{"__metadata__": ' + b'{"a": ' * 100_000),
        _raw(b'{"y": {"dtype": "F32", "shape": [99999999999, 99999999999], "data_offsets": [0, 4]}}', bytes(4)),
        _raw(b'{"y": {"dtype": "F32", "shape": [0, 999999999999], "data_offsets": [0, 0]}}'),
        _raw(b'{"y": {"dtype": "F32", "shape": [1' + b"0" * 400 + b'], "data_offsets": [0, 4]}}', bytes(4)),
        (2**63).to_bytes(8, "little"),
    ],
)
def test_a_header_that_asks_for_too_much_is_refused(tmp_path, data):
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        MeasurementFile.load(path)


@pytest.mark.parametrize(
    "about",
    ["[" * 100_000, '{"id": "a", "physics": "b", "noise_std": 1' + "0" * 400 + "}", '{"noise_std": ' + "9" * 5000],
)
def test_metadata_that_asks_for_too_much_is_refused(tmp_path, about):
    path = tmp_path / "m.safetensors"
    _measurement().save(path)
    save_file(load_file(path), path, _metadata(path) | {"measurement": about})
    with pytest.raises(CheckpointError, match=r"m\.safetensors is damaged or no measurement"):
        MeasurementFile.load(path)


@pytest.mark.parametrize(
    ("y", "reason"),
    [
        (torch.zeros(3, 0, 16), r"y has shape \(3, 0, 16\); expected at least one value"),
        (torch.zeros(3, 4, 4).to(torch.float8_e4m3fn), r"y is torch\.float8_e4m3fn; expected floats"),
    ],
)
def test_a_measurement_of_no_size_or_of_float8_is_refused(tmp_path, y, reason):
    path = tmp_path / "m.safetensors"
    MeasurementFile("a", y, "gaussian-blur", {}, 0.1).save(path)
    with pytest.raises(CheckpointError, match=reason):
        MeasurementFile.load(path)
