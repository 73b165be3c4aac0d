"""Who may ask: checked on every route before a byte of the body is read.

Host: a page of another site can make a browser look up its own name to 127.0.0.1 (DNS rebinding); the browser then
sends that name. So a name has to be one this server is known by; an address cannot be rebound and is fine. Origin: a
page of another site may send requests here; the browser says which site it is. Token: compared in constant time.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from qvl_eval.serve.refusal import Refusal

_BEARER = b"bearer "


@dataclass(frozen=True, kw_only=True)
class Access:
    """What a request has to carry. `token` None: nothing; `names` are further host names of this server."""

    token: bytes | None = None
    names: frozenset[str] = frozenset()


class Guard:
    """ASGI middleware: answers what is not let in with 400, 401 or 403, and closes WebSockets."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = self.refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await refusal.response()(scope, receive, send)

    def refusal(self, scope: MutableMapping[str, Any]) -> Refusal | None:
        """Give why a request is not let in, None if it is."""
        headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1:
            return Refusal(status=400, message=f"{len(hosts)} Host headers; one is wanted", headers=_CLOSE)
        if not self._is_ours(_host_name(hosts[0].decode("latin-1")), any_address=True):
            message = f"the host name {_shown(hosts[0])} is not this server's; --allow-host NAME adds one"
            return Refusal(status=403, message=message, code="foreign_host", headers=_CLOSE)
        origins = [value for name, value in headers if name == b"origin"]
        if any(not self._is_ours(_origin_name(origin.decode("latin-1")), any_address=False) for origin in origins):
            message = f"requests of the site {_shown(origins[0])} are not answered; --allow-host NAME adds its name"
            return Refusal(status=403, message=message, code="foreign_origin", headers=_CLOSE)
        if self._access.token is not None and not self._has_token(headers):
            message = "this server wants its token: Authorization: Bearer TOKEN"
            authenticate = {"www-authenticate": "Bearer", **_CLOSE}
            return Refusal(status=401, message=message, code="invalid_api_key", headers=authenticate)
        return None

    def _is_ours(self, name: str | None, *, any_address: bool) -> bool:
        if not name:
            return False
        address = _address(name)
        if address is not None:
            return any_address or address.is_loopback or name in self._access.names
        return name == "localhost" or name in self._access.names

    def _has_token(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        given = [value for name, value in headers if name == b"authorization"]
        if len(given) != 1 or given[0][: len(_BEARER)].lower() != _BEARER:
            return False
        assert self._access.token is not None
        return hmac.compare_digest(given[0][len(_BEARER) :].strip(), self._access.token)


_CLOSE = {"connection": "close"}


def _host_name(host: str) -> str | None:
    """Give the name of a Host header, lower case, without port, brackets and final dot; None if it is none."""
    try:
        parts = urlsplit(f"//{host}")
        name, _ = parts.hostname, parts.port
    except ValueError:
        return None
    if name is None or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return None
    return name.rstrip(".")


def _origin_name(origin: str) -> str | None:
    """Give the host name of an Origin header; None for `null` and anything that is no site."""
    scheme, separator, rest = origin.partition("://")
    return _host_name(rest) if separator and scheme.lower() in ("http", "https") else None


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _shown(value: bytes) -> str:
    return ascii(value[:80].decode("latin-1"))
