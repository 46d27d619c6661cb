"""Images that are no longer wanted."""

from dataclasses import dataclass


@dataclass(eq=False)
class Cancellation:
    """Whether an image is given up, as any thread may say at any time.

    The engine looks at it before the image's start and before each of its steps. reason: why it is given up; None while
    it is wanted.
    """

    reason: str | None = None

    def cancel(self, reason: str = "cancelled") -> None:
        """Give the image up; the first reason stays."""
        self.reason = self.reason or reason
