"""Who is let in, and how much they may send, before anything of a request is read."""

import hmac
from hashlib import sha256
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flashdiffusion.service.options import ServiceOptions
from flashdiffusion.service.refusals import Refusal

OPEN = frozenset({"/healthz", "/readyz", "/openapi.json", "/docs"})  # to those without a token
OPEN_FOLDER = "/static-offline-docs/"  # what the pages need


class Guard:
    """Asks for the token, if there is one, and stops a request that is longer than allowed."""

    def __init__(self, app: ASGIApp, options: ServiceOptions) -> None:
        self.app, self.options = app, options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = None
        if not (scope["path"] in OPEN or scope["path"].startswith(OPEN_FOLDER) or self._known(headers)):
            refusal = Refusal(
                HTTPStatus.UNAUTHORIZED,
                "expected the header Authorization: Bearer TOKEN, with the token of this service",
            )
        length = headers.get("content-length", "")
        if refusal is None and length.isdecimal() and int(length) > self.options.max_bytes:
            refusal = self._too_long()
        if refusal is not None:
            answer = refusal.response
            answer.headers["Connection"] = "close"  # what follows of the body is not read
            await self._discard(receive)
            await answer(scope, receive, send)
            return
        await self.app(scope, self._counted(receive), send)

    async def _discard(self, receive: Receive) -> None:
        """Read a body of up to twice the limit: who still sends when the connection closes never sees the answer."""
        read, more = 0, True
        while more and read <= 2 * self.options.max_bytes:
            message = await receive()
            read += len(message.get("body", b""))
            more = message.get("more_body", False)

    def _known(self, headers: Headers) -> bool:
        if self.options.token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        digests = (sha256(one.encode()).digest() for one in (given.strip(), self.options.token))  # of equal length
        return hmac.compare_digest(*digests) and scheme.lower() == "bearer"

    def _counted(self, receive: Receive) -> Receive:
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.options.max_bytes:
                raise self._too_long()
            return message

        return counted

    def _too_long(self) -> Refusal:
        limit = self.options.max_megabytes
        return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request is too large; expected at most {limit:g} MB")
