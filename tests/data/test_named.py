"""The images of published splits are found by their ids in the trees that people have, and nothing else is."""

import re
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from PIL import Image

from flashdiffusion.data import ImageDataset, NamedData, register_data
from flashdiffusion.data.named import DATA, by_name
from flashdiffusion.errors import InputError
from flashdiffusion.jobs.inputs import placed

COUNTS = {"celebahq": (1000, 4000), "ffhq": (1000, 9000), "lsun-bedroom": (1000, 4000)}
FIRST = {name: DATA[name].ids("test")[:6] for name in COUNTS}
FORMATS = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}


def _lettered(id: str) -> str:
    return f"{'/'.join(id[:3])}/{id}.webp"


LAYOUTS: list[tuple[str, Callable[[str], str]]] = [
    ("celebahq", "{}.jpg".format),
    ("celebahq", lambda id: f"{int(id)}.png"),
    ("celebahq", "imgs/celeba_hq_256/{}.jpg".format),
    ("celebahq", lambda id: f"CelebAMask-HQ/CelebA-HQ-img/{int(id)}.JPG"),
    ("celebahq", "imgHQ{}.png".format),
    ("ffhq", "{}.png".format),
    ("ffhq", lambda id: f"thumbnails128x128/{id[:2]}000/{id}.png"),
    ("ffhq", lambda id: f"{id[:2]}000/{id}.png"),
    ("lsun-bedroom", "{}.jpg".format),
    ("lsun-bedroom", _lettered),
    ("lsun-bedroom", "bedroom/{}.png".format),
]


def _value(id: str) -> int:
    """A grey that tells images apart."""
    return int(id, 16) % 200 + 20


def _draw(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value,) * 3).save(path, FORMATS[path.suffix.lower()], quality=95)
    return path


def _make(folder: Path, names: Iterable[str], ids: Iterable[str]) -> Path:
    for name, id in zip(names, ids, strict=True):
        _draw(folder / name, _value(id))
    return folder


def _packed(folder: Path, shard: Path) -> Path:
    with tarfile.open(shard, "w") as tar:
        tar.add(folder, arcname=".")
    return shard


@pytest.mark.parametrize(("name", "counts"), COUNTS.items())
def test_lists_have_their_published_lengths_and_share_nothing(name, counts):
    test, val = DATA[name].ids("test"), DATA[name].ids("val")
    assert (len(test), len(val)) == counts
    assert len({*test, *val}) == sum(counts), "an id is there twice, or in both"
    form = r"[0-9a-f]{40}" if name == "lsun-bedroom" else r"[0-9]{5}"
    assert all(re.fullmatch(form, id) for id in (*test, *val))
    assert max(test + val) < {"celebahq": "30000", "ffhq": "70000"}.get(name, "g")


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "shard"])
def test_found_in_every_layout_in_the_order_of_the_list(tmp_path, name, layout, packed):
    ids = FIRST[name]
    folder = _make(tmp_path / "data", map(layout, ids), ids)
    for more in ("note.jpg", f"mask/{ids[0]}_hair.png", layout(DATA[name].ids("val")[0])):  # none of them of the split
        _draw(folder / more)
    path = _packed(folder, tmp_path / "data.tar") if packed else folder
    data = ImageDataset([f"{name}:{path}"], 8, limit=6)
    assert data.ids == ids
    assert [int(data[n][0, 4, 4]) for n in range(6)] == pytest.approx([_value(id) for id in ids], abs=3)


def test_several_paths_and_shards_in_a_folder_are_one_data_set(tmp_path):
    ids = FIRST["ffhq"]
    for n, part in enumerate((ids[3:], ids[1:3], ids[:1])):
        folder = _make(tmp_path / f"part-{n}", map("{}.png".format, part), part)
        (tmp_path / "shards").mkdir(exist_ok=True)
        _packed(folder, tmp_path / "shards" / f"{n}.tar")
    apart = ImageDataset([f"ffhq:{tmp_path / f'part-{n}'}" for n in range(3)], 8, 6)
    together = ImageDataset([f"ffhq:{tmp_path / 'shards'}"], 8, 6)
    assert apart.ids == together.ids == ids
    assert apart.batch(range(6)).equal(together.batch(range(6)))
    with pytest.raises(InputError, match="no images found"):
        ImageDataset([tmp_path / "shards"], 8)  # without a name, as ever


def test_what_is_missing_is_counted_and_named(tmp_path):
    ids = FIRST["celebahq"]
    folder = _make(tmp_path, [f"{id}.png" for id in ids[:2] + ids[3:]], ids[:2] + ids[3:])
    source = f"celebahq:{folder}"
    assert ImageDataset([source], 8, limit=2).ids == ids[:2]
    with pytest.raises(InputError, match=rf"lacks 1 of the first 6 images of celebahq's test split: {ids[2]} \("):
        ImageDataset([source], 8, limit=6)
    absent = [ids[2], *DATA["celebahq"].ids("test")[6:10]]
    with pytest.raises(InputError, match=f"lacks 995 of the 1000 images .* split: {', '.join(absent)}, \\.\\.\\."):
        ImageDataset([source], 8)
    with pytest.raises(InputError, match=r"lacks 4000 of the 4000 .*of the 5 images there 5 are named by an id"):
        ImageDataset([source], 8, split="val")


def test_the_other_splits(tmp_path):
    val, test = DATA["ffhq"].ids("val")[:2], FIRST["ffhq"][:1]
    others = ["00002", "69999"]
    folder = _make(tmp_path, [f"{int(id)}.png" for id in (*others, *val, *test)], [*others, *val, *test])
    source = f"ffhq:{folder}"
    assert ImageDataset([source], 8, 2, split="val").ids == val
    assert ImageDataset([source], 8, split="train").ids == others
    with pytest.raises(InputError, match="unknown split of ffhq 'tests'; did you mean test"):
        ImageDataset([source], 8, split="tests")


@pytest.mark.parametrize("names", [("images1024x1024/{}.png", "thumbnails128x128/{}.png"), ("{}.png", "{}.jpg")])
def test_an_image_that_is_there_twice_is_refused_with_both_places(tmp_path, names):
    first, second = FIRST["ffhq"][:2]
    places = [_draw(tmp_path / name.format(first)) for name in names]
    _draw(tmp_path / f"{second}.png")
    with pytest.raises(InputError, match=f"image {first} of ffhq is there twice") as error:
        ImageDataset([f"ffhq:{tmp_path}"], 8, limit=2)
    assert all(str(place) in str(error.value) for place in places)
    places[0].unlink()
    assert ImageDataset([f"ffhq:{tmp_path}"], 8, limit=2).ids == [first, second]


def test_a_copy_with_numbers_of_its_own_is_refused(tmp_path):
    ids = FIRST["celebahq"]
    for name in ("30000.jpg", "202591.jpg"):  # numbered from 1; numbered as in CelebA
        folder = _make(tmp_path / name, [f"{id}.jpg" for id in ids], ids)
        _draw(folder / name)
        with pytest.raises(InputError, match=rf"{name}: the images of celebahq are numbered from 0 to 29999"):
            ImageDataset([f"celebahq:{folder}"], 8, limit=3)


def test_numbers_of_any_length_in_a_shard_are_refused(tmp_path):
    image = _draw(tmp_path / "a.png")
    with tarfile.open(tmp_path / "long.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(image, arcname=f"{'1' * 6000}.png")
    with pytest.raises(InputError, match="numbered otherwise"):
        ImageDataset([f"ffhq:{tmp_path / 'long.tar'}"], 8, limit=1)


def test_paths_that_hold_a_colon_stay_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ids = FIRST["celebahq"][:1]
    for folder in ("celebahq:faces", "2024:faces", "faces"):
        _draw(Path(folder) / f"{ids[0]}.png")
        _draw(Path(folder) / "other.png")
    for path in ("celebahq:faces", Path("2024:faces"), tmp_path / "celebahq:faces"):  # there as given
        assert ImageDataset([path], 8).ids == [f"{ids[0]}.png", "other.png"]
    assert ImageDataset([f"celebahq:{tmp_path / 'celebahq:faces'}"], 8, 1).ids == ids
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ImageDataset(["celebahq:~/faces"], 8, 1).ids == ids
    for absent in ("C:\\faces", "C:/faces", "./a:b", "in/ffhq:x", "faces-2"):
        with pytest.raises(InputError, match=f"^no such file or folder: {re.escape(str(Path(absent)))}$"):
            ImageDataset([absent], 8)
    with pytest.raises(InputError, match=r"^no such file or folder: away$"):
        ImageDataset(["ffhq:away"], 8)
    with pytest.raises(InputError, match="ffhq: says not where the images are"):
        ImageDataset(["ffhq:"], 8)


def test_an_unknown_name_lists_those_that_are_known(tmp_path):
    with pytest.raises(InputError, match=r"celebhq:.*known are celebahq:PATH, ffhq:PATH, lsun-bedroom:PATH"):
        ImageDataset([f"celebhq:{tmp_path}"], 8)


def test_a_split_is_of_named_data_alone(tmp_path):
    image = _draw(tmp_path / f"{FIRST['ffhq'][0]}.png")
    shard = _packed(tmp_path, tmp_path / "shard.tar")
    for path in (tmp_path, shard, image):
        with pytest.raises(InputError, match=f"split test: {path} is all of its images.*celebahq:{path}"):
            ImageDataset([path], 8, split="test")
        with pytest.raises(InputError, match=f"{path} is given without a data set's name"):
            ImageDataset([f"ffhq:{tmp_path}", path], 8)


def test_a_place_is_the_same_however_it_is_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "faces").mkdir()
    spelled = ["ffhq:faces", "ffhq:./faces/", f"ffhq:{tmp_path / 'faces'}"]
    assert {placed(one) for one in spelled} == {f"ffhq:{(tmp_path / 'faces').resolve()}"}
    assert placed("gaussian-blur:std=2") == "gaussian-blur:std=2" and by_name("faces") is None


@pytest.fixture
def pets(tmp_path):
    """A data set of a user's own: ids that are no numbers, a list with file names and a damaged one."""
    (tmp_path / "best.txt").write_text("\ufeffcats/Tom.jpg\r\n\r\nrex\n", encoding="utf-8")
    (tmp_path / "wrong.txt").write_text("rex\nfish-3\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    lists = {name: tmp_path / f"{name}.txt" for name in ("best", "wrong", "binary", "gone")}
    yield register_data(NamedData("pets", lists, pattern="(?:pet-)?([A-Za-z]+)"))
    del DATA["pets"]


def test_a_data_set_of_ones_own(tmp_path, pets):
    for name in ("pet-rex.png", "b/Tom.png", "tom.png"):
        _draw(tmp_path / "images" / name)
    source = f"pets:{tmp_path / 'images'}"
    assert ImageDataset([source], 8, split="best").ids == ["Tom", "rex"]
    for split, reason in (
        ("wrong", r"wrong\.txt: 'fish-3' is no id of pets; expected"),
        ("binary", r"binary\.txt is no list of ids"),
        ("gone", r"cannot read .*gone\.txt"),
        (None, "unknown split of pets 'test'"),
    ):
        with pytest.raises(InputError, match=reason):
            ImageDataset([source], 8, split=split)
    assert register_data(pets) is pets, "again, as when a file is loaded twice"
    with pytest.raises(InputError, match="the name 'pets' is taken"):
        register_data(NamedData("pets", {}))


@pytest.mark.parametrize("name", ["c", "my:set", "a/b", "Own", ""])
def test_names_that_could_be_paths_are_refused(name):
    with pytest.raises(InputError, match="expected a name of two or more"):
        register_data(NamedData(name, {}))
