"""What a run has done so far, kept so that it can be continued after a kill at any moment."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from flashdiffusion.data.files import write_json
from flashdiffusion.errors import InputError
from flashdiffusion.jobs.inputs import placed

Row = dict[str, Any]


class Journal:
    """Records of a run as JSON lines beside its results file, which takes their place when the run ends.

    The first line says what the run is about, each other one is a record with an `id`, on disk as soon as it is added.
    A last line that a kill left unfinished does not count. Nothing is written before the first record.

    replaced: records by name of an earlier run that are there and are not taken over, as far as they can be read.

    Args:
        results: the results file; the journal of `results.json` is `results.jsonl`.
        about: what the records depend on: model, method, seed, settings and the like, as JSON can hold it.
        resume: take over the records of an earlier run, from its journal and its results file; those of images that
            it lists as failed are left out. Without, both are replaced.

    Raises:
        InputError: an earlier run about something else, files that are of no run, or a results file named like one.
    """

    def __init__(self, results: str | Path, about: Mapping[str, Any], resume: bool = False) -> None:
        self.results = Path(results)
        self.path = self.results.with_suffix(".jsonl")
        if self.path == self.results:
            raise InputError(f"{results} ends in .jsonl, as the journal beside it will; expected e.g. results.json")
        self.about: Row = json.loads(json.dumps(about))
        self.done: dict[str, Row] = {}
        self._stream: TextIO | None = None
        self._kept = 0  # bytes of an earlier journal that are whole lines
        self._afresh = not resume  # whether the results file beside it is of another run
        self.replaced = {} if resume else self._there()
        if resume:
            self._take_over()

    def add(self, row: Row) -> None:
        """Keep a record."""
        if self._stream is None:
            self._begin()
        self._write(row)
        self.done[row["id"]] = row

    def finish(self, report: Mapping[str, Any]) -> None:
        """Write the results file, atomically; then the journal is of no more use."""
        self.close()
        write_json(self.results, report)
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Stop writing; what was added stays."""
        if self._stream is not None:
            with suppress(OSError):  # of a write that failed before, and was said then
                self._stream.close()
            self._stream = None

    def _begin(self) -> None:
        self._stream = self.path.open("r+" if self._kept else "w")
        if self._kept:
            self._stream.truncate(self._kept)
            self._stream.seek(0, 2)
        else:
            self._write({"about": self.about, "afresh": self._afresh})

    def _write(self, row: Row) -> None:
        assert self._stream is not None
        self._stream.write(json.dumps(row, allow_nan=False) + "\n")
        self._stream.flush()

    def _there(self) -> dict[str, Row]:
        """Records that an earlier run left, whatever it was about."""
        rows: list[Row] = []
        with suppress(OSError, ValueError, AttributeError, TypeError):
            rows += json.loads(self.results.read_text())["records"] if self.results.exists() else []
        with suppress(OSError):
            rows += [*self._lines()][1:]
        self._kept = 0
        return {row["id"]: row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)}

    def _take_over(self) -> None:
        journal = list(self._lines())
        if journal:
            header = self._expect(self.path, journal[0], "about", dict)
            self._check(self.path, header)
            self._afresh = bool(journal[0].get("afresh"))
        if self.results.exists() and not self._afresh:
            try:
                earlier = json.loads(self.results.read_text())
            except (OSError, ValueError) as error:
                raise InputError(f"{self.results} cannot be continued: {error}; leave out --resume") from error
            rows = self._expect(self.results, earlier, "records", list)
            self._check(self.results, earlier)
            failed = {name for name, _ in self._named(self.results, earlier.get("failed", []))}
            self.done = {name: row for name, row in self._named(self.results, rows) if name not in failed}
        self.done |= dict(self._named(self.path, journal[1:]))

    def _lines(self) -> Iterator[Row]:
        """The whole lines of an earlier journal."""
        if not self.path.exists():
            return
        with self.path.open("rb") as stream:
            for line in stream:
                try:
                    row = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    row = None
                if row is None:  # a kill came in the middle of it
                    return
                self._kept += len(line)
                yield row

    def _named(self, path: Path, rows: list[Row]) -> list[tuple[str, Row]]:
        return [(self._expect(path, row, "id", str), row) for row in rows]

    def _check(self, path: Path, earlier: Row) -> None:
        if different := differences(earlier, self.about):
            raise InputError(
                f"{path} holds a run with another {different}; give the same options, choose another --out, or leave "
                "out --resume to start afresh"
            )

    @staticmethod
    def _expect(path: Path, holder: Any, key: str, kind: type) -> Any:
        value = holder.get(key) if isinstance(holder, dict) else None
        if not isinstance(value, kind):
            raise InputError(f"{path} has no {key}: it is of no run that can be continued; choose another --out")
        return value


def differences(earlier: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Say in what of all that `about` names an earlier run was another: names, with its value and the one now."""
    old, new = _flat({key: earlier.get(key) for key in about}), _flat(about)
    different = []
    for key, (name, _) in (old | new).items():
        before, now = (side[key][1] if key in side else None for side in (old, new))
        if placed(before) != placed(now):
            different.append(f"{name} ({_shown(before)}, now {_shown(now)})")
    return ", ".join(different)


def _flat(about: Mapping[str, Any]) -> dict[tuple[str, str], tuple[str, Any]]:
    """The values, those of inner objects by keys of their own, each with its name as it was given."""
    flat: dict[tuple[str, str], tuple[str, Any]] = {}
    for key, value in about.items():
        inner = value if isinstance(value, dict) else {"": value}
        flat |= {(key, name and placed(name)): (f"{key} {name}".strip(), one) for name, one in inner.items()}
    return flat


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
