"""Text of a model or a file as a terminal may show it: nothing in it moves the cursor or renames the window."""

from __future__ import annotations

import sys
import unicodedata

# Characters that are no sign of their own but that words and emoji of many languages are written with.
_JOINERS = "\u200c\u200d"


def shown(text: str) -> str:
    """Give text with control characters escaped."""
    return "".join(char if _is_harmless(char) else ascii(char)[1:-1] for char in text)


def printed(text: str) -> str:
    """Give text as it is to be printed: escaped for a terminal, unchanged for a file or a pipe."""
    return shown(text) if sys.stdout.isatty() else text


def _is_harmless(char: str) -> bool:
    # Blanks of other widths, as in Chinese and French texts, are not "printable".
    return char.isprintable() or char in "\n\t" or char in _JOINERS or unicodedata.category(char) == "Zs"
