"""Files of a request: put into a folder of its own, read there, and deleted."""

import errno
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path, PurePosixPath, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import IO

from flashdiffusion.data.arrays import shape_of
from flashdiffusion.data.decoding import size_of
from flashdiffusion.data.files import cut
from flashdiffusion.data.measurements import SUFFIX
from flashdiffusion.errors import AreaError, FlashDiffusionError, InputError, is_out_of_memory
from flashdiffusion.jobs import Item, ModelChoice
from flashdiffusion.jobs.parse import with_files
from flashdiffusion.jobs.reading import check_physics, check_undecoded, is_image
from flashdiffusion.jobs.restore import RestoreWorker
from flashdiffusion.pipeline import FlashPipeline
from flashdiffusion.service.asked import Asked
from flashdiffusion.service.refusals import RETRY, Refusal
from flashdiffusion.service.work import ATTACHED, OWN, Read, plain

_FORBIDDEN = re.compile(r"[^\w.,+ ()=@~-]|^\.+")
_LONGEST = 200  # bytes of a file's name


@dataclass(frozen=True)
class Uploaded:
    """A file as it came: its name, made fit for a folder, and its content."""

    name: str
    content: IO[bytes]

    @classmethod
    def of(cls, name: str | None, content: IO[bytes], default: str) -> "Uploaded":
        """Take the last part of a name, of which nothing leads out of a folder."""
        last = PureWindowsPath(PurePosixPath(name or "").name).name
        path = PurePosixPath(_FORBIDDEN.sub("_", last.strip()) or default)
        return cls(cut(path.stem, _LONGEST) + cut(path.suffix, 20), content)


@dataclass(frozen=True)
class Reading:
    """Reads pictures for a model.

    folder: a temporary one, for files while they are read. most: pixels that a picture may have.
    """

    choice: ModelChoice
    pipeline: FlashPipeline
    folder: Path
    most: int

    def __call__(self, upload: Uploaded, attachments: Mapping[str, Uploaded], asked: Asked) -> Read:
        """Read a picture, an array or a measurement file.

        Raises:
            Refusal: it cannot be used: why.
        """
        with TemporaryDirectory(dir=self.folder) as temporary:
            folder = Path(temporary)
            try:
                return self._read(folder, upload, attachments, asked)
            except AreaError as error:
                status, reason = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error)
            except FlashDiffusionError as error:
                status, reason = HTTPStatus.UNPROCESSABLE_ENTITY, str(error)
            except OSError as error:
                full = error.errno in {errno.ENOSPC, errno.EDQUOT}
                status = HTTPStatus.SERVICE_UNAVAILABLE if full else HTTPStatus.UNPROCESSABLE_ENTITY
                reason = f"{upload.name}: cannot be stored: {error.strerror or error}"
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                status, reason = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{upload.name}: too large for the memory here"
            raise Refusal(status, plain(reason, folder), RETRY if status == HTTPStatus.SERVICE_UNAVAILABLE else None)

    def _read(self, folder: Path, upload: Uploaded, attachments: Mapping[str, Uploaded], asked: Asked) -> Read:
        path = folder / OWN / upload.name
        _write(upload, path)
        check_undecoded(path, self.most)
        attached = {}
        for one in attachments.values():
            attached[one.name] = folder / ATTACHED / one.name
            _write(one, attached[one.name])
            check_undecoded(attached[one.name], self.most)
        physics = asked.physics and with_files(asked.physics, lambda file: _found(file, attached))
        measured = path.suffix == SUFFIX
        job = asked.job(self.choice, None if measured else physics)
        worker = RestoreWorker(job, self.pipeline, self.most)
        notes: tuple[str, ...] = ()
        if measured:
            if asked.physics is not None or asked.noise_std is not None:
                notes = ("physics and noise_std are not used: a measurement file holds its own",)
        elif physics is None:
            raise InputError(f"{upload.name}: say what damaged it as physics, e.g. gaussian-blur:std=2")
        else:
            check_physics(physics, job.noise_std, [path], job.seed)
        item = Item(0, asked.id or path.stem, str(path))
        problem, known = worker.read_checked(item)
        return Read(worker, problem, known, upload.name, folder, asked.samples, notes)


def _write(upload: Uploaded, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    upload.content.seek(0)
    with path.open("wb") as file:
        shutil.copyfileobj(upload.content, file)


def _found(file: Path, attached: Mapping[str, Path]) -> Path:
    """Where an attachment lies that a physics names: an image or an array, which are read within limits."""
    if (name := str(file)) not in attached:
        known = ", ".join(attached) or "none"
        raise InputError(f"physics names the file {file.name!r}; expected the name of an attachment, here: {known}")
    path = attached[name]
    try:
        size_of(path) if is_image(path) else shape_of(path)
    except InputError as error:  # such as weights of a network, which are loaded without these limits
        raise InputError(f"{name}: not an image or array that can be read; this takes no other attachments") from error
    return path
