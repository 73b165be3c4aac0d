"""Which code of qvl a run is computed with: a checkout that was changed has the version of one that was not."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("qvl-core", "qvl-convert", "qvl-data", "qvl-train", "qvl-eval")


def code_digests() -> dict[str, str]:
    """Give the sha256 of the Python files of each installed package of qvl, by its name; imports none of them."""
    found = {}
    for package in PACKAGES:
        spec = find_spec(package.replace("-", "_"))
        if spec is not None and spec.origin:
            found[package] = digest_of_code(Path(spec.origin).parent)
    return found


def digest_of_code(folder: Path) -> str:
    """Give the sha256 of all Python files below a folder: their places in it and their bytes."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        try:
            data = path.read_bytes()
        except OSError:
            # A link that leads nowhere, such as an editor leaves beside an open file, is no code.
            continue
        name = path.relative_to(folder).as_posix().encode("utf-8", "surrogateescape")
        whole.update(b"%d:%s%d:" % (len(name), name, len(data)))
        whole.update(data)
    return whole.hexdigest()
