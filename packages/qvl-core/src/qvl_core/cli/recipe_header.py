"""What the opening comment of a recipe says: its purpose and its verification status."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

STATUSES = ("simulated", "cpu-tiny", "device-verified")
# A header is short; a file that is no recipe may be long.
_LIMIT = 16_384


@dataclass(frozen=True, kw_only=True)
class Header:
    """The first sentence of the opening comment, and the status that it states ("" if none)."""

    purpose: str = ""
    status: str = ""


def read_header(path: Path) -> Header:
    """Read the comment lines that a recipe opens with; empty where there are none or the file cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(_LIMIT)
    except OSError:
        return Header()
    comments = []
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            break
        comments.append(line.strip().lstrip("#").strip())
    paragraph = "\n".join(comments).strip().split("\n\n")[0].replace("\n", " ")
    stated = re.search(rf"(?im)^status\b\W*({'|'.join(STATUSES)})\b", "\n".join(comments))
    # A full stop ends the sentence only where a space follows: "Qwen2.5-VL" has one too.
    purpose = re.split(r"(?<=[.:])\s", paragraph)[0].rstrip(".:")
    return Header(purpose=purpose, status=stated[1].lower() if stated else "")
