"""The true image of each input, found by the path of the input's file and never by a name given on the way."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from flashdiffusion.errors import InputError


def references(folder: Path, inputs: Sequence[Path], files: Mapping[str, Path]) -> dict[str, Path]:
    """The true image in `folder` of every name; `folder` may be the image itself if there is one input.

    An image is matched by its path in the folder that was given, a measurement file by the path of the image that it
    was made from: first with its suffix, then without, where one image alone is left that is nobody else's.

    Args:
        inputs: files and folders as they were given.
        files: the input file of every name.

    Raises:
        InputError: a name has none, or several; one image for many inputs.
    """
    from flashdiffusion.data.decoding import SUFFIXES
    from flashdiffusion.data.walking import walk

    if not folder.is_dir():
        if len(files) > 1:
            raise InputError(f"reference {folder} is one image for {len(files)} inputs; expected the folder of theirs")
        return dict.fromkeys(files, folder)
    there = {path.relative_to(folder): path for path in walk(folder, SUFFIXES)[0]}
    wanted = {name: _source(path, inputs) for name, path in files.items()}
    exact = {name: there[source] for name, source in wanted.items() if source in there}
    taken = set(exact.values())
    found, missing = {}, []
    for name, source in wanted.items():
        free = [exact[name]] if name in exact else [path for path in _near(source, there) if path not in taken]
        if len(free) > 1:
            raise InputError(
                f"{files[name]} has several images in {folder} to compare with: {', '.join(map(str, free[:4]))}; "
                "expected one by its path"
            )
        if free:
            found[name] = free[0]
        else:
            missing.append(source)
    if missing:
        raise InputError(
            f"no image {missing[0]} in {folder} to compare with; expected one by the name of each input, and "
            f"{len(missing)} of {len(files)} lack theirs"
        )
    shared = Counter(path for name, path in found.items() if name not in exact)
    for path, count in shared.items():
        if count > 1 and len({wanted[name] for name in found if found[name] == path}) > 1:
            raise InputError(f"{count} inputs would be compared with {path}; expected a true image of its own for each")
    return found


def _near(source: PurePath, there: Mapping[Path, Path]) -> list[Path]:
    """Images of this path without its suffix; of this name alone, if there are none."""
    same_path = [path for relative, path in there.items() if relative.with_suffix("") == source.with_suffix("")]
    return same_path or [path for relative, path in there.items() if relative.stem == source.stem]


def _source(path: Path, inputs: Sequence[Path]) -> PurePath:
    """The path of the image that an input is, or was made from, in the folder that was given."""
    from flashdiffusion.data.measurements import SUFFIX, source_of

    if path.suffix == SUFFIX and (source := source_of(path)) is not None:
        return PurePath(source)
    return relative_name(path, inputs)


def relative_name(path: Path, inputs: Sequence[Path]) -> PurePath:
    """An input's path in the folder that was given, its name alone if it was given itself."""
    folders = [folder for folder in inputs if path != folder and path.is_relative_to(folder)]
    return path.relative_to(folders[0]) if folders else PurePath(path.name)
