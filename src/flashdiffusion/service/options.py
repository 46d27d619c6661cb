"""What a service allows."""

import math
from dataclasses import dataclass, field

from flashdiffusion.errors import InputError
from flashdiffusion.hosting import MEGA


@dataclass(frozen=True)
class ServiceOptions:
    """Limits of a service, and what is asked of its users.

    max_megabytes: of a request. max_megapixels: of a picture, an array, a mask, or what is made of them. max_samples:
    of a request. max_pending, max_pending_megapixels: of all requests that are accepted and not done. timeout: seconds
    from a request's acceptance to its result. keep: seconds that the result of a job is kept. max_kept: jobs whose
    results are kept; of more, the oldest are dropped. grace: seconds, after all is done at a shutdown, in which results
    of jobs can be fetched. token: what users must know; None lets in anybody. max_in_flight: see
    `FlashPipeline.stream`.

    Raises:
        InputError: a limit that lets nothing in, or a token that no header can hold.
    """

    max_megabytes: float = 64
    max_megapixels: float = 16
    max_samples: int = 8
    max_pending: int = 64
    max_pending_megapixels: float = 64
    timeout: float = 600
    keep: float = 600
    max_kept: int = 1000
    grace: float = 30
    token: str | None = field(default=None, repr=False)
    max_in_flight: int | None = None

    def __post_init__(self) -> None:
        positive = (
            "max_megabytes",
            "max_megapixels",
            "max_samples",
            "max_pending",
            "max_pending_megapixels",
            "timeout",
            "max_kept",
        )
        for name in (*positive, "keep", "grace"):
            value = getattr(self, name)
            if not 0 <= value < math.inf or (value == 0 and name in positive):
                bound = "> 0" if name in positive else ">= 0"
                raise InputError(f"{name} is {value}; expected a finite number {bound}")
        if self.max_pending_megapixels < self.max_megapixels:
            raise InputError(
                f"max_pending_megapixels is {self.max_pending_megapixels}; expected at least {self.max_megapixels}, "
                "those of one picture"
            )
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
            raise InputError("the token is empty or has characters beside printable ASCII; expected e.g. 32 hex digits")

    @property
    def max_bytes(self) -> int:
        """Of a request."""
        return int(self.max_megabytes * MEGA)

    @property
    def max_pixels(self) -> int:
        """Of a picture."""
        return int(self.max_megapixels * MEGA)
