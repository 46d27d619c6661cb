"""A folder, a link to it and a tar shard of it mean the same images to every command."""

import io
import os
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from flashdiffusion.cli.inputs import expand, named
from flashdiffusion.data import ImageDataset, atomic_path
from flashdiffusion.errors import InputError
from flashdiffusion.seeds import image_generator

WANTED = ["a.png", "b.jfif", "below/c.GIF", "below/deeper/d.avif"]
PASSED = [".git/e.png", "@eaDir/a.png/f.jpg", "__MACOSX/._a.png", "Thumbs.db", "below/._c.gif", "notes.txt"]


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "in"
    for name in WANTED + PASSED:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path / name, "PNG")
    return path


def _names(paths: list[Path], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def test_commands_data_sets_and_shards_take_the_same(folder, tmp_path, capsys):
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(folder, arcname=".")
    assert _names(expand([folder]), folder) == WANTED
    data, shard = ImageDataset([folder], 8), ImageDataset([tmp_path / "shard.tar"], 8)
    assert data.ids == WANTED
    assert sorted(name.removeprefix("./") for name in shard.ids) == WANTED
    error = capsys.readouterr().err
    assert error.count("note: passed over in") == 1
    for text in (error, *data.notes, *shard.notes):
        assert "1 of other kinds (.txt)" in text and "hidden, or left there by another program" in text


def test_links_to_folders_are_followed_and_circles_seen(folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    Image.new("RGB", (8, 8)).save(outside / "x.png")
    (folder / "part").symlink_to(outside)
    (folder / "below" / "up").symlink_to(folder)
    (outside / "self").symlink_to(outside)
    (folder / "gone.txt").symlink_to("gone.txt")
    assert _names(expand([folder]), folder) == sorted([*WANTED, "part/x.png"])
    assert ImageDataset([folder], 8).ids == sorted([*WANTED, "part/x.png"])
    (tmp_path / "link").symlink_to(folder)
    assert len(expand([tmp_path / "link"])) == 5


def test_what_degrade_wrote_is_passed_over_in_silence_beside_its_measurements(tmp_path, capsys):
    for name in ("a.safetensors", "a.png", "degrade.json"):
        (tmp_path / name).write_bytes(b"")
    assert expand([tmp_path]) == [tmp_path / "a.safetensors"]
    assert capsys.readouterr().err == ""
    (tmp_path / "b.png").write_bytes(b"")
    expand([tmp_path])
    assert "1 of other kinds (images beside measurement files)" in capsys.readouterr().err


def _tar(*members: tuple[str, bytes], **changes: object) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.pax_headers = dict(changes)
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


@pytest.mark.parametrize("size", ["-1024", "-512", "-2048", "99999999999999999999"])
def test_a_tar_whose_extended_header_leads_in_circles_or_past_its_end_is_refused(tmp_path, size):
    path = tmp_path / "circle.tar"
    path.write_bytes(_tar(("a.png", b"x" * 600), ("b.png", b"x"), size=size))
    with pytest.raises(InputError, match=r"cannot read tar shard|no images found"):
        ImageDataset([path], 8)


def test_a_tar_of_nothing_but_headers_of_headers_is_refused(tmp_path):
    member = tarfile.TarInfo("a")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 0
    path = tmp_path / "deep.tar"
    path.write_bytes(member.tobuf() * 5000)
    with pytest.raises(InputError, match="cannot read tar shard"):
        ImageDataset([path], 8)


@pytest.mark.parametrize("length", [1, 511, 512, 700, 1200])
def test_a_truncated_tar_is_refused(tmp_path, length):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        member = tarfile.TarInfo("a.png")
        member.size = 900
        tar.addfile(member, io.BytesIO(b"x" * 900))
    path = tmp_path / "cut.tar"
    path.write_bytes(stream.getvalue()[:length])
    with pytest.raises(InputError):
        ImageDataset([path], 8)


def test_names_of_any_bytes_and_of_full_length_are_used(tmp_path):
    odd, long = tmp_path / os.fsdecode(b"caf\xe9.png"), tmp_path / ("n" * 251 + ".png")
    for path in (odd, long):
        Image.new("RGB", (8, 8)).save(path)
        assert len(ImageDataset([path], 8)) == 1
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"new")
    names = named([odd, long, Path("below") / long.name])
    assert len(set(names)) == 3
    for name in names:
        image_generator(0, name)
        (tmp_path / f"{name}.safetensors").write_bytes(b"")
