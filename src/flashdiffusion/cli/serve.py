"""`flashdiffusion serve`."""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from flashdiffusion.cli import options
from flashdiffusion.cli.command import option
from flashdiffusion.errors import InputError, note
from flashdiffusion.hosting import LOOPBACK, is_loopback, listen

if TYPE_CHECKING:
    from flashdiffusion.jobs import ModelChoice

TOKEN = "FLASHDIFFUSION_TOKEN"  # environment variable; an option would be seen by all users of the machine
LIMITS = "Limits"


@dataclass(frozen=True)
class ServedModels:
    """The models, and how they run."""

    model: Annotated[
        list[str] | None,
        option(
            "Model folder or hub id, or an embedded model: faces-128 or photos; repeat for more, of which requests "
            "choose. Default: photos.",
            show_default=False,
        ),
    ] = None
    device: Annotated[str | None, option("Torch device, e.g. cuda; default: cuda if there is one.")] = None
    precision: Annotated[str, option("Precision of the networks: float32, bfloat16 or float16.", panel=options.RUN)] = (
        "float32"
    )
    max_in_flight: options.MaxInFlight = None

    def choices(self) -> "dict[str, ModelChoice]":
        """What opens each, by the name that users know it by.

        Raises:
            InputError: two of one name.
        """
        from flashdiffusion.model import EMBEDDED_PREFIX, PHOTOGRAPHS, embedded_name

        found: dict[str, ModelChoice] = {}
        for given in self.model or [EMBEDDED_PREFIX + PHOTOGRAPHS]:
            known = embedded_name(given)
            name = known or Path(given).name or given  # and not where it lies
            if name in found:
                raise InputError(f"two models are called {name}; expected names of their own")
            own = given if known is None else EMBEDDED_PREFIX + known
            found[name] = options.ModelOptions(own, self.device, self.precision).choice()
        return found


@dataclass(frozen=True)
class LimitOptions:
    """What is let in."""

    max_megabytes: Annotated[float, option("Of a request.", panel=LIMITS)] = 64
    max_megapixels: Annotated[float, option("Of a picture, or of its result.", panel=LIMITS)] = 16
    max_samples: Annotated[int, option("Of a request.", panel=LIMITS)] = 8
    max_pending: Annotated[
        int, option("Requests that are accepted and not done; others are told to come again (503).", panel=LIMITS)
    ] = 64
    max_pending_megapixels: Annotated[float, option("Of all of these together.", panel=LIMITS)] = 64
    timeout: Annotated[float, option("Seconds from a request's acceptance to its result.", panel=LIMITS)] = 600
    keep: Annotated[float, option("Seconds that the result of a job is kept.", panel=LIMITS)] = 600
    max_kept: Annotated[int, option("Jobs whose results are kept; of more, the oldest are dropped.", panel=LIMITS)] = (
        1000
    )
    grace: Annotated[
        float,
        option("Seconds, at the end, in which results of jobs can still be fetched when all is done.", panel=LIMITS),
    ] = 30


def command(
    models: ServedModels,
    limits: LimitOptions,
    host: Annotated[str, option("Address to listen on; 0.0.0.0 for all.")] = LOOPBACK,
    port: Annotated[int, option("Port; 0 for one that is free.", min=0, max=65535)] = 8000,
    token_file: Annotated[
        Path | None,
        option(f"File with the token that users must send (Authorization: Bearer TOKEN); default: that in {TOKEN}."),
    ] = None,
    access_log: Annotated[bool, option("Log every request on stderr.", "--access-log")] = False,
) -> int:
    """Restore pictures for other programs, over HTTP: docs/service.md.

    SIGTERM finishes what was accepted.
    """
    for name in ("fastapi", "fastapi_offline", "python_multipart", "prometheus_client", "uvicorn"):
        if find_spec(name) is None:
            raise InputError(f'serve needs {name}: pip install "flashdiffusion[serve]"')
    from flashdiffusion.service.options import ServiceOptions
    from flashdiffusion.service.server import serve
    from flashdiffusion.service.service import Service

    token = _token(token_file)
    allowed = ServiceOptions(**vars(limits), token=token, max_in_flight=models.max_in_flight)
    choices = models.choices()
    own = listen(host, port)
    with own:
        service = Service(choices, allowed)
        address = f"[{host}]" if ":" in host else host
        where = f"http://{address}:{own.getsockname()[1]}"
        if token is None and not is_loopback(own.getsockname()[0]):
            note(f"whoever reaches {where} may use it: give a token by {TOKEN} or --token-file")
        serve(service, own, access_log, lambda: note(f"serving {', '.join(choices)} on {where}; {where}/docs says how"))
    return 0


def _token(file: Path | None) -> str | None:
    if file is None:
        given = os.environ.get(TOKEN)
        return None if given is None else given.strip()  # a file's last line often ends with it
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the token file {file}: {getattr(error, 'strerror', None) or error}") from error
