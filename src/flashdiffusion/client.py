"""A client of the service that `flashdiffusion serve` starts; loads neither torch nor a model.

from flashdiffusion.client import Client

with Client("http://127.0.0.1:8000") as client:
    client.restore("blurred.png", physics="gaussian-blur:std=2").save("restored.png")
"""

import io
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from flashdiffusion.errors import FlashDiffusionError, InputError

if TYPE_CHECKING:
    import httpx2
    from PIL.Image import Image

RETRIES = 5  # of a request that finds the service full
WAIT = 30  # seconds of one poll
Content = str | Path | bytes


class ServiceError(FlashDiffusionError):
    """A request that the service refused, or that failed there, or did not reach it.

    status: HTTP's; 0 without an answer. detail: what the service says.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{detail} (HTTP {status})" if status else detail)
        self.status, self.detail = status, detail


@dataclass(frozen=True)
class Restored:
    """What a request came to.

    images: PNG files, one for each sample. records: of each, as in `results.json`. maps: pictures of severity and of
    the steps of tiles, as PNG files, if they were asked for. notes: what you should know.
    """

    images: list[bytes]
    records: list[dict[str, Any]]
    maps: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def record(self) -> dict[str, Any]:
        """Of the first sample."""
        return self.records[0]

    def pil(self, sample: int = 0) -> "Image":
        """A sample as a Pillow image."""
        from PIL import Image

        return Image.open(io.BytesIO(self.images[sample]))

    def save(self, path: str | Path, sample: int = 0) -> Path:
        """Write a sample as a PNG file."""
        path = Path(path)
        path.write_bytes(self.images[sample])
        return path


class Client:
    """Talks to a service; to be closed, or used in a `with` block. Threads may share it.

    Args:
        url: where the service is.
        token: that of the service, if it asks for one.
        timeout: seconds to wait for an answer.
        retries: how often a request is made again when the service is full, after as long as it says.

    Raises:
        InputError: httpx2 is not installed.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        token: str | None = None,
        timeout: float = 660.0,
        retries: int = RETRIES,
    ) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise InputError('the client needs httpx2: pip install "flashdiffusion[serve]"') from error
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._http = httpx2.Client(base_url=url, headers=headers, timeout=timeout)
        self.retries = retries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def restore(
        self,
        picture: Content,
        *,
        attachments: Sequence[Content] | Mapping[str, Content] = (),
        name: str | None = None,
        **options: Any,
    ) -> Restored:
        """Restore a picture, and wait for it.

        Args:
            picture: a file (a picture, an array or a measurement), by its path or as its bytes.
            attachments: files that the physics names, such as masks; bytes by their name.
            name: of the file, for bytes: its suffix says what they are. By default "picture.png".
            options: as on the command line: physics, noise_std, method, seed, samples, id, model, fit, maps, and any
                setting by name, such as `quality="fast"`.

        Raises:
            ServiceError: it was refused, or failed: why.
            InputError: a file that cannot be read, or two attachments of one name.
        """
        answer = self._post("/v1/restore", picture, attachments, name, options, {"Accept": "application/json"})
        found = answer.json()
        return Restored(
            [b64decode(one["image"]) for one in found["samples"]],
            [one["record"] for one in found["samples"]],
            {kind: b64decode(png) for kind, png in found["maps"].items()},
            found["notes"],
        )

    def submit(
        self,
        picture: Content,
        *,
        attachments: Sequence[Content] | Mapping[str, Content] = (),
        name: str | None = None,
        **options: Any,
    ) -> "Job":
        """Restore a picture later; see `restore`, which it raises as."""
        answer = self._post("/v1/jobs", picture, attachments, name, options, {})
        return Job(self, answer.json()["id"])

    def about(self) -> dict[str, Any]:
        """Models, methods, degradations and limits of the service."""
        return self._ask("GET", "/v1/about").json()

    def _post(
        self,
        path: str,
        picture: Content,
        attachments: Sequence[Content] | Mapping[str, Content],
        name: str | None,
        options: Mapping[str, Any],
        headers: Mapping[str, str],
    ) -> "httpx2.Response":
        named = (
            [*attachments.items()] if isinstance(attachments, Mapping) else [(_name(one), one) for one in attachments]
        )
        for own, count in Counter(own for own, _ in named).items():
            if count > 1:
                raise InputError(f"{count} attachments are called {own}; expected a name for each: give {{name: file}}")
        files = [("file", (name or _name(picture), _bytes(picture)))]
        files += [("attachment", (own, _bytes(one))) for own, one in named]
        data = {key: _text(value) for key, value in options.items() if value is not None}
        return self._ask("POST", path, files=files, data=data, headers=dict(headers))

    def _ask(self, method: str, path: str, **more: Any) -> "httpx2.Response":
        import httpx2

        for left in range(self.retries, -1, -1):
            try:
                answer = self._http.request(method, path, **more)
            except httpx2.ConnectError as error:
                raise ServiceError(0, f"no service answers at {self._http.base_url}: {error}") from error
            if answer.status_code != 503 or not left:
                break
            time.sleep(_seconds(answer.headers.get("Retry-After", "")))
        if answer.is_success:
            return answer
        raise ServiceError(answer.status_code, _detail(answer))


@dataclass(frozen=True)
class Job:
    """A job of a service, by its id."""

    client: Client
    id: str

    @property
    def _path(self) -> str:
        return f"/v1/jobs/{self.id}"

    def status(self, wait: float = 0) -> dict[str, Any]:
        """How far it is: its "state" is queued, running, done or failed; waits for its end so many seconds."""
        return self.client._ask("GET", self._path, params={"wait": wait}).json()

    def result(self, timeout: float | None = None) -> Restored:
        """Wait for the job, and fetch what it came to.

        Args:
            timeout: seconds to wait at most.

        Raises:
            ServiceError: it failed, or is not known any more.
            TimeoutError: it is not done.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = WAIT if end is None else max(0.0, min(WAIT, end - time.monotonic()))
            found = self.status(left)
            if found["state"] in {"done", "failed"}:
                break
            if end is not None and time.monotonic() >= end:
                raise TimeoutError(f"job {self.id} is {found['state']} after {timeout:g} s")
        if found["state"] == "failed":
            raise ServiceError(found["problem"]["status"], found["problem"]["detail"])
        return Restored(
            [self.client._ask("GET", one["image"]).content for one in found["samples"]],
            [one["record"] for one in found["samples"]],
            {kind: self.client._ask("GET", path).content for kind, path in found["maps"].items()},
            found["notes"],
        )

    def cancel(self) -> None:
        """Give the job up if it is not done, and let the service forget it."""
        self.client._ask("DELETE", self._path)


def _name(content: Content) -> str:
    return "picture.png" if isinstance(content, bytes) else Path(content).name


def _bytes(content: Content) -> bytes:
    if isinstance(content, bytes):
        return content
    try:
        return Path(content).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {content}: {error.strerror or error}") from error


def _seconds(text: str) -> float:
    """Of a Retry-After; 1 where there is none, or a date."""
    return float(text) if text.isdecimal() else 1.0


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _detail(answer: "httpx2.Response") -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.reason_phrase
