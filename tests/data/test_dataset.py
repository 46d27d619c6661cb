"""The same images from a folder, a tar shard or single files, cached or not."""

import shutil
import tarfile

import pytest
import torch
from PIL import Image

from flashdiffusion.data import ImageDataset, load_image
from flashdiffusion.errors import InputError

SIZE = 32


@pytest.fixture
def shard(tmp_path, image_folder):
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as tar:
        for file in sorted(image_folder.iterdir()):
            tar.add(file, arcname=file.name)
    return path


def test_a_folder_and_a_tar_shard_give_the_same_images(image_folder, shard):
    folder, tar = ImageDataset([image_folder], SIZE), ImageDataset([shard], SIZE)
    assert len(folder) == 12
    assert folder.ids == tar.ids == sorted(p.name for p in image_folder.iterdir())
    assert torch.equal(folder.batch(range(12)), tar.batch(range(12)))


def test_single_files_and_several_paths_are_joined(image_folder, shard):
    files = sorted(image_folder.iterdir())
    data = ImageDataset([files[3], shard, str(files[0])], SIZE)
    assert data.ids == [files[3].name, *(f.name for f in files), files[0].name]
    assert torch.equal(data[0], data[1 + 3])


def test_images_in_folders_below_have_ids_with_their_folder(tmp_path):
    for name in ("b/one.png", "a/one.PNG", ".hidden.png", "a/note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name, "PNG")
    (tmp_path / "folder.png").mkdir()
    assert ImageDataset([tmp_path], SIZE).ids == ["a/one.PNG", "b/one.png"]


def test_an_image_is_cropped_at_its_centre_and_resized(tmp_path, image_folder):
    data = ImageDataset([image_folder], SIZE)
    item = data[5]
    assert item.dtype == torch.uint8 and item.shape == (3, SIZE, SIZE)
    with Image.open(image_folder / data.ids[5]) as image:
        image.crop((4, 0, 44, 40)).save(tmp_path / "square.png")  # of 48 x 40
    expected = load_image(tmp_path / "square.png", SIZE)
    torch.testing.assert_close(item.float() / 255, expected, atol=2 / 255, rtol=0)
    assert torch.equal(data.batch([5])[0], item.float() / 255)


def test_limit_takes_the_first(image_folder):
    assert ImageDataset([image_folder], SIZE, limit=3).ids == ImageDataset([image_folder], SIZE).ids[:3]
    assert len(ImageDataset([image_folder], SIZE, limit=100)) == 12


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(image_folder, limit):
    with pytest.raises(InputError, match=f"limit is {limit}; expected at least 1"):
        ImageDataset([image_folder], SIZE, limit=limit)


def test_the_cache_changes_nothing(image_folder):
    cached, fresh = ImageDataset([image_folder], SIZE), ImageDataset([image_folder], SIZE, cache_gib=0)
    order = [7, 0, 11, 7, 3, 0]
    first = cached.batch(order)
    assert torch.equal(first, fresh.batch(order))
    assert torch.equal(first, cached.batch(order))  # this time from memory


def test_a_cached_image_needs_its_file_no_more_and_others_do(tmp_path):
    path = tmp_path / "one.png"
    Image.new("RGB", (SIZE, SIZE), (9, 8, 7)).save(path)
    cached, fresh = ImageDataset([path], SIZE), ImageDataset([path], SIZE, cache_gib=0)
    assert torch.equal(cached[0], fresh[0])
    path.unlink()
    assert cached[0][:, 0, 0].tolist() == [9, 8, 7]
    with pytest.raises(InputError, match=r"cannot read .*one\.png"):
        fresh[0]


def test_a_damaged_image_is_named_when_it_is_read(tmp_path, image_folder):
    (tmp_path / "bad.png").write_bytes((image_folder / "image-00.png").read_bytes()[:200])
    data = ImageDataset([image_folder, tmp_path], SIZE)
    with pytest.raises(InputError, match=r"bad\.png"):
        data.batch([0, 12])


def test_batches_give_the_images_and_say_which_cannot_be_read(tmp_path, image_folder):
    (tmp_path / "bad.png").write_bytes(b"no image")
    data = ImageDataset([image_folder, tmp_path], SIZE, cache_gib=0)
    found = list(data.batches([12, 3, 0, 12], 3))
    assert [indices for indices, _, _ in found] == [[3, 0], []]
    assert torch.equal(found[0][1], data.batch([3, 0])) and found[1][1].shape == (0, 3, SIZE, SIZE)
    assert all([*failed] == [12] and "bad.png" in failed[12] for _, _, failed in found)


def test_a_list_names_images_by_their_paths(tmp_path, image_folder):
    shutil.copy(image_folder / "image-03.png", tmp_path / "own.png")
    (tmp_path / "list.txt").write_bytes(f"own.png\r\n\n{image_folder}/image-05.png\nown.png".encode())
    data = ImageDataset([tmp_path / "list.txt"], SIZE)
    assert data.ids == ["own.png", f"{image_folder}/image-05.png", "own.png"]
    assert torch.equal(data.batch([0, 1, 2]), ImageDataset([image_folder], SIZE).batch([3, 5, 3]))


def test_a_written_list_is_data_with_the_same_ids(tmp_path, image_folder, monkeypatch):
    """Of folders below, tar shards whose members have a folder, single files, and lists; wherever it is read from."""
    (tmp_path / "deep" / "below").mkdir(parents=True)
    shutil.copy(image_folder / "image-01.png", tmp_path / "deep" / "below" / "a.png")
    with tarfile.open(tmp_path / "shard.TAR", "w") as tar:
        for number in (2, 3):
            tar.add(image_folder / f"image-{number:02d}.png", arcname=f"./x/{number}.png")
    (tmp_path / "given.txt").write_text("deep/below/a.png\n")
    monkeypatch.chdir(tmp_path)
    data = ImageDataset(["deep", "shard.TAR", image_folder / "image-04.png", "given.txt"], SIZE)
    assert data.ids == ["below/a.png", "./x/2.png", "./x/3.png", "image-04.png", "deep/below/a.png"]
    order = [4, 2, 0, 3, 1, 2]
    (tmp_path / "out").mkdir()
    data.write_list("out/list.txt", order)
    expected = data.batch(order)
    monkeypatch.chdir("/")
    listed = ImageDataset([tmp_path / "out" / "list.txt"], SIZE)
    assert listed.ids == [data.ids[i] for i in order]
    assert torch.equal(listed.batch(range(6)), expected)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("absent.png", r"list.txt, line 2: cannot read .*absent.png: No such file"),
        (".", r"list.txt, line 2: cannot read .*: it is a folder; expected a file"),
        ("shard.tar/./absent.png", r"list.txt, line 2: no image absent.png in shard.tar"),
        ("absent.tar/./a.png", r"list.txt, line 2: cannot read .*absent.tar: No such file"),
    ],
)
def test_a_list_of_what_is_not_there_is_refused(tmp_path, image_folder, shard, line, reason):
    (tmp_path / "list.txt").write_text(f"{image_folder}/image-00.png\n{line}\n")
    with pytest.raises(InputError, match=reason):
        ImageDataset([tmp_path / "list.txt"], SIZE)


def test_lists_that_cannot_be(tmp_path, image_folder):
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(InputError, match="no images found"):
        ImageDataset([tmp_path / "list.txt"], SIZE)
    shutil.copy(image_folder / "image-00.png", tmp_path / "two\nlines.png")
    with pytest.raises(InputError, match="expected paths without line breaks"):
        ImageDataset([tmp_path], SIZE).write_list(tmp_path / "out.txt", [0])
    assert not (tmp_path / "out.txt").exists()


def test_what_holds_no_images_is_refused(tmp_path):
    for name in ("empty", "notes.txt", "torn.tar"):
        path = tmp_path / name
        if name == "empty":
            path.mkdir()
        else:
            path.write_text("text")
        with pytest.raises(InputError):
            ImageDataset([path], SIZE)
    with pytest.raises(InputError, match=r"no such file or folder: .*missing"):
        ImageDataset([tmp_path / "missing"], SIZE)


def test_a_compressed_tar_is_refused(tmp_path, image_folder):
    path = tmp_path / "compressed.tar"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(image_folder / "image-00.png", arcname="a.png")
    with pytest.raises(InputError, match=r"cannot read tar shard .*compressed\.tar"):
        ImageDataset([path], SIZE)
