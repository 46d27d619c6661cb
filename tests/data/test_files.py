"""No half-written file is ever seen under its final name."""

import json

import pytest

from flashdiffusion.data import atomic_path, ensure_directory, write_json
from flashdiffusion.data.files import ensure_file
from flashdiffusion.errors import InputError


def test_a_block_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="halfway"), atomic_path(tmp_path / "file.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError("halfway")
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_succeeds_replaces_the_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with atomic_path(path) as temporary:
        assert temporary != path and temporary.suffix == ".txt"
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_what_json_cannot_hold_and_leaves_the_old_file(tmp_path, value):
    path = tmp_path / "results.json"
    write_json(path, {"psnr": 20.5})
    with pytest.raises(ValueError):
        write_json(path, {"psnr": value})
    assert json.loads(path.read_text()) == {"psnr": 20.5}
    assert list(tmp_path.iterdir()) == [path]


def test_folders_are_made_with_their_parents_and_left_empty(tmp_path):
    folder = ensure_directory(tmp_path / "a" / "b")
    assert folder.is_dir() and list(folder.iterdir()) == []
    assert ensure_directory(folder) == folder


def test_a_folder_that_is_a_file_or_below_one_is_refused(tmp_path):
    (tmp_path / "file").write_text("text")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=f"{path}.*writable folder"):
            ensure_directory(path)


def test_an_output_file_has_its_folder_made_and_is_not_a_folder_itself(tmp_path):
    path = tmp_path / "new" / "results.json"
    assert ensure_file(path) == path
    assert path.parent.is_dir() and not path.exists()
    with pytest.raises(InputError, match="is a folder; expected a file"):
        ensure_file(tmp_path)
