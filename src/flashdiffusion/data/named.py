"""Data sets by name: the images of a published split, found by their ids wherever they lie below a folder."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from flashdiffusion.data.decoding import SUFFIXES
from flashdiffusion.data.entries import Entry, list_entries
from flashdiffusion.data.files import read_bytes
from flashdiffusion.errors import InputError, blamed_on, check_name

TRAIN = "train"  # what is in no list
_LISTS = Path(__file__).parents[1] / "assets" / "splits"
_LARGEST = 2**28  # bytes of a list


@dataclass(frozen=True)
class NamedData:
    """A data set whose splits were published as lists of image ids.

    name: as in `--data NAME:PATH`. splits: by split a text file of ids or file names, one a line; "train" stands for
    the images that are in none of them. pattern: regular expression of a file's name without suffix; its last group, or
    all of it, is the id. Numbers are the same with and without leading zeros. count: how many images there are, if they
    are numbered from 0; ids then have as many digits as the last of them.
    """

    name: str
    splits: Mapping[str, str | Path]
    pattern: str = ".+"
    count: int | None = None

    def __post_init__(self) -> None:
        re.compile(self.pattern)  # a wrong one raises where it is written

    def id_of(self, file: str) -> str | None:
        """Tell an image's id by its file's name; None if there is none in it."""
        path = PurePosixPath(file)
        match = re.fullmatch(self.pattern, path.stem if path.suffix.lower() in SUFFIXES else path.name)
        if match is None:
            return None
        text = match[match.lastindex or 0]
        return text.lstrip("0").zfill(len(self._last)) if text.isascii() and text.isdigit() else text

    @property
    def _last(self) -> str:
        return str((self.count or 1) - 1)

    def ids(self, split: str) -> list[str]:
        """Read the list of a split, in its order.

        Raises:
            InputError: no such split, or a file that is no list of ids.
        """
        check_name(f"split of {self.name}", split, self.splits)
        file = Path(self.splits[split])
        with blamed_on(f"{file} is no list of ids", InputError):
            lines = read_bytes(file, _LARGEST).decode("utf-8-sig").split("\n")
        ids = []
        for line in filter(None, map(str.strip, lines)):
            if (id := self.id_of(line)) is None:
                raise InputError(f"{file}: {line!r} is no id of {self.name}; expected {self.pattern}")
            ids.append(id)
        return ids

    def find(self, paths: Sequence[Path], split: str, limit: int | None, notes: list[str]) -> list[tuple[str, Entry]]:
        """Find the first `limit` images of a split, each with its id; those of "train" by rising id.

        Raises:
            InputError: no such split; an image is missing, or there twice; images are numbered otherwise.
        """
        check_name(f"split of {self.name}", split, {TRAIN, *self.splits})
        entries = [entry for path in paths for entry in list_entries(path, notes, shards=True)]
        found: dict[str, list[Entry]] = {}
        for entry in entries:
            if (id := self.id_of(entry.name)) is not None:
                self._expect_number(id, entry)
                found.setdefault(id, []).append(entry)
        if split in self.splits:
            ids = self.ids(split)[:limit]
        else:
            ids = sorted(found.keys() - {id for name in self.splits for id in self.ids(name)})[:limit]
        if missing := [id for id in ids if id not in found]:
            which = f"the {len(ids)}" if limit is None else f"the first {len(ids)}"
            raise InputError(
                f"{', '.join(map(str, paths))} lacks {len(missing)} of {which} images of {self.name}'s {split} split: "
                f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''} (of the {len(entries)} images there "
                f"{sum(map(len, found.values()))} are named by an id)"
            )
        for id in ids:
            if len(found[id]) > 1:
                first, second = (entry.place for entry in found[id][:2])
                raise InputError(
                    f"image {id} of {self.name} is there twice, as {first} and as {second}; name the one folder or "
                    f"shard that is meant, --data {self.name}:PATH"
                )
        return [(id, found[id][0]) for id in ids]

    def _expect_number(self, id: str, entry: Entry) -> None:
        """Refuse a copy of the data set that has numbers of its own: its images would be taken for others."""
        if self.count is not None and (len(id) > len(self._last) or id > self._last):
            raise InputError(
                f"{entry.place}: the images of {self.name} are numbered from 0 to {self._last}, these are numbered "
                "otherwise, and the published ids are not theirs; get a copy that has the data set's own numbers"
            )


DATA: dict[str, NamedData] = {}


def register_data(data: NamedData) -> NamedData:
    """Register a data set for `--data NAME:PATH` and `ImageDataset`; raises InputError if its name is taken or odd."""
    if not re.fullmatch("[a-z0-9-]{2,}", data.name):  # of one letter it would be a drive
        raise InputError(f"data set {data.name!r}; expected a name of two or more of a to z, digits and dashes")
    if DATA.setdefault(data.name, data) != data:
        raise InputError(f"the name {data.name!r} is taken by another data set; choose another")
    return data


def by_name(source: str | Path) -> tuple[NamedData, Path] | None:
    """Read NAME:PATH; None for a path alone, which may hold a colon.

    Raises:
        InputError: neither a path that exists nor a data set that is known.
    """
    text = str(source)
    name, colon, path = text.partition(":")
    if not colon or len(name) < 2 or set(name) & {"/", "\\"} or Path(text).exists():
        return None
    if name not in DATA:
        known = ", ".join(f"{one}:PATH" for one in DATA)
        raise InputError(f"no such file or folder: {text}; and no data set is named {name!r}: known are {known}")
    if not path:
        raise InputError(f"{text} says not where the images are; expected {name}:PATH")
    with blamed_on(text, InputError):
        return DATA[name], Path(path).expanduser()


def find_by_name(
    sources: Sequence[str | Path], split: str | None, limit: int | None, notes: list[str]
) -> list[tuple[str, Entry]] | None:
    """Find the images of data sets given by name, each with its id; None if all are paths alone.

    Raises:
        InputError: as `by_name` and `NamedData.find`; paths with and without a name; a split of paths without.
    """
    named, plain = dict[str, list[Path]](), list[str | Path]()
    for source in sources:
        if (one := by_name(source)) is None:
            plain.append(source)
        else:
            named.setdefault(one[0].name, []).append(one[1])
    if plain and named:
        raise InputError(f"{plain[0]} is given without a data set's name, others with one; give all of them alike")
    if plain and split is not None:
        raise InputError(
            f"split {split}: {plain[0]} is all of its images; a split is of a data set by name, such as "
            f"{next(iter(DATA))}:{plain[0]}"
        )
    found: list[tuple[str, Entry]] = []
    for name, paths in named.items():
        left = None if limit is None else max(0, limit - len(found))
        found += DATA[name].find(paths, split or "test", left, notes)
    return found if named else None


for _name, _pattern, _count in (
    ("celebahq", "(?:imgHQ)?([0-9]+)", 30_000),
    ("ffhq", "[0-9]+", 70_000),
    ("lsun-bedroom", "[0-9a-f]{40}", None),
):
    register_data(NamedData(_name, {one: _LISTS / f"{_name}-{one}.txt" for one in ("test", "val")}, _pattern, _count))
