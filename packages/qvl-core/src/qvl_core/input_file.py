"""Opening files that a user named: regular files only, so that a pipe or device never makes us wait."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from qvl_core.errors import InputError, Problem, RunError, WeightsError

ErrorType = Callable[[Problem], InputError]

# Not the file's fault, nor the user's choice of it.
OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def open_regular_file(path: Path, *, error_type: ErrorType = WeightsError, fix: str = "") -> BinaryIO:
    """Open a regular file for reading; symlinks are followed. Raises `error_type` for anything else."""

    def problem(message: str) -> InputError:
        return error_type(Problem(where=printable(str(path)), message=message, fix=fix))

    try:
        # Without O_NONBLOCK, opening a pipe that nobody writes to never returns.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise problem("there is no such file") from None
    except OSError as error:
        if error.errno in OUT_OF_RESOURCES or error.errno == errno.EIO:
            raise exhausted(printable(str(path)), error) from None
        user = f" by user {os.geteuid()}" if error.errno in (errno.EACCES, errno.EPERM) else ""
        raise problem(f"cannot be opened{user}: {error.strerror}") from None
    except ValueError:
        raise problem("a path cannot hold a NUL character") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise problem(f"is {kind_of_file(mode)}, not a regular file")
    return os.fdopen(descriptor, "rb")


def read_regular_file(path: Path, *, limit: int, error_type: ErrorType = WeightsError, fix: str = "") -> bytes:
    """Read a whole regular file of at most `limit` bytes. Raises `error_type` for anything else."""
    with open_regular_file(path, error_type=error_type, fix=fix) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        message = f"is larger than the {limit:,} bytes that are expected here at most"
        raise error_type(Problem(where=printable(str(path)), message=message, fix=fix))
    return data


def exhausted(where: str, error: OSError) -> RunError:
    """Give the error for a process or machine that has no more descriptors or memory, or whose disk fails."""
    if error.errno != errno.EMFILE:
        return RunError(f"{where}: cannot be opened: {error.strerror}")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    message = f"cannot be opened: this process may have {limit:,} open files"
    return RunError(f"{where}: {message}\n  fix: ulimit -n {max(4096, 2 * limit)}")


@contextmanager
def readable(path: Path, *, error_type: ErrorType = WeightsError) -> Iterator[None]:
    """Turn an OSError of looking at a path (no permission, name too long, a NUL in it) into `error_type`."""
    try:
        yield
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}"
        raise error_type(Problem(where=printable(str(path)), message=message)) from None
    except ValueError:
        raise error_type(Problem(where=printable(str(path)), message="a path cannot hold a NUL character")) from None


def kind_of_file(mode: int) -> str:
    """Name what a file of this mode is, with its article."""
    names = (
        (stat.S_ISREG, "a regular file"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((name for is_kind, name in names if is_kind(mode)), "a special file")


def printable(text: str, limit: int = 200) -> str:
    """Give text that is safe and short enough for a message: control characters escaped, the end cut."""
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[: limit + 1])
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."
