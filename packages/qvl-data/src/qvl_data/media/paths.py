"""Media paths of records to files under `media_root`, and nowhere else.

A data set is often somebody else's file; a path in it must not make us open what lies outside the folder that the
recipe names. Refused: `..` parts, absolute paths and symbolic links that lead outside, URLs, `~`, `$`, drive letters.
With `allow_outside` the first three may lead outside; the others are no paths and stay refused.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from qvl_core.input_file import printable

_URL_OR_DRIVE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/|[A-Za-z]:|(?:data|file):", re.IGNORECASE)
# Folders whose real path is remembered, so that a data set of one folder per sample does not fill the memory.
_REMEMBERED = 10_000


class MediaPathError(ValueError):
    """A media path that is refused; the text says why. Callers add the record's file and line."""


class MediaRoot:
    """The folder that media paths start from. Safe to use from several threads.

    Where a folder leads is found out once and remembered, a file is looked at each time: a link that is put in a
    file's place later is noticed, one in a folder's place is not.
    """

    def __init__(self, folder: Path, *, allow_outside: bool = False) -> None:
        self._written = folder
        self._real = os.path.realpath(folder)
        self._allow_outside = allow_outside
        self._folders: dict[str, str] = {}

    def resolve(self, written: str) -> Path:
        """Give the real path of a media file, under the real path of the root unless `allow_outside` was said.

        The file need not exist. Raises MediaPathError.
        """
        refuse_no_path(written)
        if not self._allow_outside and ".." in written.split("/"):
            raise MediaPathError(f"{_shown(written)} holds a `..` part; paths are written from media_root downwards")
        try:
            real = self._real_path(os.path.join(self._real, written))  # noqa: PTH118 - Path costs five times as much
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise MediaPathError(f"the path {_shown(written)} cannot be resolved: {reason}") from None
        if not (self._allow_outside or real == self._real or real.startswith(self._real.rstrip("/") + "/")):
            reason = "is an absolute path" if written.startswith("/") else "leads through a symbolic link"
            shown = f"{_shown(written)} {reason} out of media_root {printable(str(self._written))}"
            raise MediaPathError(f"{shown}; it is not opened")
        return Path(real)

    def _real_path(self, path: str) -> str:
        folder, name = os.path.split(path)
        if name in ("", ".", ".."):
            return os.path.realpath(path)
        real_folder = self._folders.get(folder)
        if real_folder is None:
            real_folder = os.path.realpath(folder)
            if len(self._folders) >= _REMEMBERED:
                self._folders.clear()
            self._folders[folder] = real_folder
        real = f"{real_folder.rstrip('/')}/{name}"
        try:
            is_link = stat.S_ISLNK(os.lstat(real).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return real
        return os.path.realpath(real) if is_link else real


def refuse_no_path(written: str) -> None:
    """Raise MediaPathError for what is no path of a file, wherever it may lead: URLs, `~`, `$`, drive letters, NUL."""
    if "\0" in written:
        raise MediaPathError(f"the path {_shown(written)} holds a NUL character")
    if _URL_OR_DRIVE.match(written):
        raise MediaPathError(f"{_shown(written)} is a URL or has a drive letter; only paths under media_root are read")
    if written.startswith(("~", "$")) or "\\" in written:
        raise MediaPathError(f"{_shown(written)} starts with ~ or $, or holds a backslash; none of them is expanded")


def _shown(written: str) -> str:
    return repr(written if len(written) <= 200 else written[:200] + "...")
