"""An error response in OpenAI's form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


# Not frozen: `contextlib` writes to exceptions that pass through it.
@dataclass(kw_only=True, eq=False)
class Refusal(Exception):  # noqa: N818 - what is raised is a response, not a failure
    """A request that is not answered, and why. `param` is the field of the request that is wrong."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """Give the body."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Give the response."""
        return JSONResponse(self.content(), status_code=self.status, headers=dict(self.headers))


def bad_request(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    """Give a 400."""
    return Refusal(status=400, message=message, param=param, code=code)
