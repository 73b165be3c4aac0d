"""Texts on standard output, also where that is not UTF-8: reports hold paths and names in any script."""

from __future__ import annotations

import sys


def print_text(text: str) -> None:
    """Print a text; characters that standard output cannot show are written as escapes, valid in JSON too."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        text = "".join(char if ord(char) < 128 else _escaped(char) for char in text)
    print(text)


def _escaped(char: str) -> str:
    # JSON knows \uXXXX only: what lies beyond takes two of them, as in UTF-16.
    units = char.encode("utf-16-be", errors="surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))
