"""Where the media paths of records start: under `dataset_dir` or in the working directory; the reference tried both."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from qvl_core.errors import InputError, RecipeError
from qvl_core.input_file import open_regular_file
from qvl_core.migrate.job import clean_path

# Bytes of a data file in which its first medium is looked for.
_LOOKED = 1 << 16


def first_medium(path: str, names: Iterable[str]) -> str | None:
    """Give the first path that a data file states under one of these names; None where the file is not there."""
    try:
        with open_regular_file(Path(path), error_type=RecipeError) as file:
            text = file.read(_LOOKED).decode("utf-8", "replace")
    except (InputError, OSError, ValueError):
        return None
    columns = "|".join(re.escape(name) for name in names)
    found = re.search(rf'"(?:{columns})"\s*:\s*\[?\s*("(?:[^"\\\n]|\\.)+")', text)
    try:
        return str(json.loads(found[1])) if found else None
    except ValueError:
        return None


def root_of(medium: str, root: str) -> str | None:
    """Give where a relative path starts: `root`, or "." for the working directory; None where nothing tells."""
    try:
        if (Path(root) / medium).exists():
            return root
        return "." if clean_path(medium).startswith(f"{root}/") or Path(medium).exists() else None
    except (OSError, ValueError):
        return None
