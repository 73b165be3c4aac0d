"""Media paths of records to files under `media_root`, and nowhere else.

A data set is often somebody else's file; a path in it must not make us open what lies outside the folder that the
recipe names. Refused: `..` parts, absolute paths and symbolic links that lead outside, URLs, `~`, `$`, drive letters.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_URL_OR_DRIVE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/|[A-Za-z]:|(?:data|file):", re.IGNORECASE)


class MediaPathError(ValueError):
    """A media path that is refused; the text says why. Callers add the record's file and line."""


def resolve_media_path(written: str, media_root: Path) -> Path:
    """Give the real path of a media file, which lies under the real path of `media_root`.

    The file need not exist. Raises MediaPathError.
    """
    shown = repr(written if len(written) <= 200 else written[:200] + "...")
    if "\0" in written:
        raise MediaPathError(f"the path {shown} holds a NUL character")
    if _URL_OR_DRIVE.match(written):
        raise MediaPathError(f"{shown} is a URL or has a drive letter; only paths under media_root are read")
    if written.startswith(("~", "$")) or "\\" in written:
        raise MediaPathError(f"{shown} starts with ~ or $, or holds a backslash; none of them is expanded")
    if ".." in written.split("/"):
        raise MediaPathError(f"{shown} holds a `..` part; paths are written from media_root downwards")
    root = Path(os.path.realpath(media_root))
    try:
        real = Path(os.path.realpath(root / written))
    except (OSError, ValueError) as error:
        raise MediaPathError(f"the path {shown} cannot be resolved: {error}") from None
    if not real.is_relative_to(root):
        reason = "is an absolute path" if Path(written).is_absolute() else "leads through a symbolic link"
        raise MediaPathError(f"{shown} {reason} out of media_root {media_root}; it is not opened")
    return real
