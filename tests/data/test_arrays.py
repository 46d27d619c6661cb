"""Measurements of other programs are read, or refused before anything is allocated or executed."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
import scipy.io
import torch

from flashdiffusion.data import arrays
from flashdiffusion.data.arrays import read_array
from flashdiffusion.errors import InputError

VALUES = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
EVIL = b'cos\nsystem\n(S"touch %s"\ntR.'


def _write(path, value, name="y"):
    """One array in the format of the path's suffix."""
    if path.suffix == ".npy":
        np.save(path, value)
    elif path.suffix == ".npz":
        np.savez_compressed(path, **{name: value})
    elif path.suffix == ".pt":
        torch.save({name: torch.from_numpy(np.ascontiguousarray(value))}, path)
    else:
        scipy.io.savemat(path, {name: value}, do_compression=True)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".mat", ".NPY"])
@pytest.mark.parametrize("name", ["y", "measurement", "other"])
def test_the_same_values_from_every_kind(tmp_path, suffix, name):
    path = tmp_path / f"a{suffix.lower()}"
    for value, expected in (
        (VALUES, VALUES),
        (VALUES.transpose(1, 2, 0), VALUES),
        (VALUES[0], VALUES[0]),
        ((VALUES * 255).round().astype(np.uint8), (VALUES * 255).round() / 255),
        ((VALUES * 65535).round().astype(np.uint16), (VALUES * 65535).round() / 65535),
        (VALUES.astype(np.float64), VALUES),
        (np.eye(4), np.eye(4)),  # MATLAB's files hold whole numbers as integers
    ):
        _write(path, value, name).rename(tmp_path / f"b{suffix}")
        read = read_array(tmp_path / f"b{suffix}")
        assert read.dtype == torch.float32
        np.testing.assert_allclose(read.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".mat"])
def test_of_several_arrays_the_one_that_is_named(tmp_path, suffix):
    path, other = tmp_path / f"a{suffix}", np.zeros((2, 2))

    def write(**values):
        if suffix == ".pt":
            torch.save({name: torch.from_numpy(value) for name, value in values.items()} | {"words": "no array"}, path)
        else:
            (np.savez if suffix == ".npz" else lambda p, **v: scipy.io.savemat(p, v | {"words": "no"}))(path, **values)

    for name in ("y", "measurement"):
        write(a=other, **{name: VALUES}, z=other)
        assert read_array(path).shape == (3, 4, 5)
    write(a=other, b=other)
    with pytest.raises(InputError, match="holds the arrays a, b; expected one alone, or one named y or measurement"):
        read_array(path)


@pytest.mark.parametrize(
    ("suffix", "value"),
    [
        *((suffix, VALUES.astype(kind)) for suffix in (".npy", ".npz", ".pt") for kind in (np.int64, bool, complex)),
        (".mat", VALUES.astype(np.int32)),
        (".mat", VALUES.astype(complex)),
        (".npy", np.zeros((3, 0, 5))),
        (".pt", np.zeros((3, 0, 5))),
        (".npz", np.array([{}], dtype=object)),
        (".mat", np.array([1, "a"], dtype=object)),
    ],
)
def test_values_that_are_no_measurement(tmp_path, suffix, value):
    with pytest.raises(InputError, match=f"a{suffix}"):
        read_array(_write(tmp_path / f"a{suffix}", value))


def _npy(header: bytes, body: bytes = b"", version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + body


def _described(shape: str, kind: str = "<f4") -> bytes:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}".encode()


@pytest.mark.parametrize(
    "data",
    [
        _npy(b"(" * 9000),
        _npy(b"(" * 100_000, version=2),
        _npy(b"{'descr': " + b"[('a'," * 900 + b"'f4'" + b")]" * 900),
        _npy(_described("(99999999999, 99999999999)"), bytes(4)),
        _npy(_described("(8000, 8000)"), bytes(4)),
        _npy(_described("(1" + "0" * 400 + ",)"), bytes(4)),
        _npy(_described("(0, 99999999999)")),
        _npy(_described("(-1, -4)"), bytes(16)),
        _npy(_described("(1,)", "|O"), EVIL % b"PWNED"),
        _npy(_described("(4,)", "<U0"), bytes(16)),
        EVIL % b"PWNED",
        b"",
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_headers_that_ask_for_too_much(tmp_path, monkeypatch, suffix, data):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"a{suffix}"
    if suffix == ".npz":
        with zipfile.ZipFile(path, "w") as packed:
            packed.writestr("y.npy", data)
    else:
        path.write_bytes(data)
    with pytest.raises(InputError, match=f"a{suffix}"):
        read_array(path)
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(1).expand(10**6, 10**6),
        torch.eye(4).to_sparse(),
        torch.zeros(3, 4, 4, device="meta"),
        torch.zeros(3, 4, 4).to(torch.float8_e4m3fn),
        [torch.zeros(3, 4, 4)],
    ],
)
def test_tensors_of_other_kinds(tmp_path, value):
    torch.save(value, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt holds"):
        read_array(tmp_path / "a.pt")


class _Evil:
    def __reduce__(self):
        import os

        return os.mkdir, ("PWNED",)


def test_code_in_a_file_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"y": torch.zeros(3, 4, 4), "more": _Evil()}, tmp_path / "a.pt")
    torch.save(_Evil(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    np.save(tmp_path / "a.npy", np.array([_Evil()], dtype=object), allow_pickle=True)
    for name in ("a.pt", "old.pt", "a.npy"):
        with pytest.raises(InputError, match=name):
            read_array(tmp_path / name)
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".mat"])
def test_archives_that_unpack_to_too_much(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(arrays, "LARGEST", 2**16)
    path, large = tmp_path / f"a{suffix}", bytes(2**20)
    if suffix == ".mat":
        packed = zlib.compress(large)
        path.write_bytes(b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(packed)) + packed)
    else:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("y.npy", large)
        path.write_bytes(stream.getvalue())
    with pytest.raises(InputError, match="unpacks to"):
        read_array(path)


def test_matlab_7_3_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "a.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(512))
    with pytest.raises(InputError, match=r"save\(FILE, 'y', '-v7'\)"):
        read_array(tmp_path / "a.mat")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".mat"])
def test_any_bytes_changed(tmp_path, suffix):
    rng, path = np.random.default_rng(1), _write(tmp_path / f"a{suffix}", VALUES)
    whole = path.read_bytes()
    for _ in range(60):
        changed = bytearray(whole)
        for _ in range(rng.integers(1, 6)):
            changed[rng.integers(min(200, len(changed)) if rng.random() < 0.7 else len(changed))] = rng.integers(256)
        path.write_bytes(bytes(changed[: rng.integers(1, len(changed))] if rng.random() < 0.1 else changed))
        try:
            assert read_array(path).dtype == torch.float32
        except InputError as error:
            assert str(path) in str(error)
