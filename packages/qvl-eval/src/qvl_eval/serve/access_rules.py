"""What a command line says of who may ask, and where the server listens. Checked before the model is loaded."""

from __future__ import annotations

import ipaddress
import re
import shlex
import socket
import stat
from pathlib import Path
from typing import Any

import typer
from qvl_core.errors import DataError, Problem, RecipeError
from qvl_core.input_file import printable, read_regular_file

BACKLOG = 256
_TOKEN = re.compile(rb"[\x21-\x7e]{16,1024}")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?")


def read_token(path: Path | None) -> bytes | None:
    """Give the token of a file: one line of 16 to 1024 visible ASCII characters. Raises DataError; shows none of it.

    A file that others may write to is refused, one that they may read is warned of: secrets of containers often are.
    """
    if path is None:
        return None
    token = read_regular_file(path, limit=4096, error_type=DataError).strip()
    mode = path.stat().st_mode
    if mode & stat.S_IWOTH:
        problem = "every user of this machine can replace the token in it"
        raise DataError(Problem(where=printable(str(path)), key="--token-file", message=problem, fix=_chmod(path)))
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        typer.echo(f"qvl: warning: {printable(str(path))} can be read by other users: {_chmod(path)}", err=True)
    if not _TOKEN.fullmatch(token):
        message = f"holds no token: one line of 16 to 1024 visible ASCII characters; it has {len(token)} bytes"
        fix = f'python -c "import secrets; print(secrets.token_urlsafe(32))" > {shlex.quote(printable(str(path)))}'
        raise DataError(Problem(where=printable(str(path)), key="--token-file", message=message, fix=fix))
    return token


def host_names(allowed: tuple[str, ...]) -> frozenset[str]:
    """Give the names of --allow-host in lower case. Raises RecipeError for what is no name of a host."""
    wrong = [name for name in allowed if not _NAME.fullmatch(name)]
    if wrong:
        message = f"{wrong[0]!a} is no name of a host"
        raise RecipeError(Problem(where="qvl serve", key="--allow-host", message=message, fix="--allow-host gpu7.lab"))
    return frozenset(name.lower() for name in allowed)


def checked_root(root: Path | None) -> Path | None:
    """Give the folder of --allow-root with its links followed. Raises RecipeError."""
    if root is None:
        return None
    if not root.is_dir():
        message = f"{printable(str(root))} is not a folder"
        raise RecipeError(Problem(where="qvl serve", key="--allow-root", message=message, fix="--allow-root pictures"))
    real = root.resolve()
    if real == Path(real.anchor):
        message = "the whole file system would be open to every request"
        raise RecipeError(Problem(where="qvl serve", key="--allow-root", message=message, fix="--allow-root pictures"))
    return real


def bind(host: str, port: int, *, has_token: bool) -> socket.socket:
    """Give a bound socket, not listening yet: clients are refused until the model is there.

    Raises RecipeError for an address that is not there or in use, and for one beyond this machine without a token.
    """
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError) as error:
        message = f"{host!a} is no address of this machine: {error}"
        raise RecipeError(Problem(where="qvl serve", key="--host", message=message, fix="--host 127.0.0.1")) from None
    addresses = [str(address[0]).partition("%")[0] for *_, address in found]
    if not has_token and not all(ipaddress.ip_address(address).is_loopback for address in addresses):
        message = f"{host or addresses[0]} can be reached from other machines, and nothing says who may ask"
        fix = "--token-file FILE, or --host 127.0.0.1"
        raise RecipeError(Problem(where="qvl serve", key="--host", message=message, fix=fix))
    reason = ""
    for family, kind, protocol, _, address in found:
        try:
            return _bound(socket.socket(family, kind, protocol), address)
        except OSError as error:
            reason = error.strerror or str(error)
    raise _in_use(host, port, reason)


def listen(listener: socket.socket) -> None:
    """Let clients in. Raises RecipeError where another process listens since `bind`, which Linux allows until then."""
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        host, port = listener.getsockname()[:2]
        raise _in_use(host, port, error.strerror or str(error)) from None


def _in_use(host: str, port: int, reason: str) -> RecipeError:
    message = f"{host}:{port} cannot be listened on: {reason}"
    return RecipeError(Problem(where="qvl serve", key="--port", message=message, fix="--port 0"))


def _chmod(path: Path) -> str:
    return f"chmod 600 {shlex.quote(printable(str(path)))}"


def _bound(listener: socket.socket, address: Any) -> socket.socket:
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener
