"""The same images from a folder, a tar shard or single files, cached or not."""

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
