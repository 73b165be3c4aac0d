"""The folder that a run writes to: whose it is, whether it can be written, and the record `run.json` in it."""

from __future__ import annotations

import json
import os
import platform
import secrets
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from qvl_core.durable import atomic_write
from qvl_core.errors import OutputError, Problem
from qvl_core.input_file import printable

RUN_FILE = "run.json"
LOGS = "logs"
RECORD_FORMAT = 1
RECORDED_PACKAGES = (
    *("qvl-core", "qvl-convert", "qvl-data", "qvl-train", "qvl-eval"),
    *("mindspore", "numpy", "transformers", "tokenizers", "pillow", "safetensors"),
)

# Settings that may differ between a run and its continuation: they change no number that the run computes, the layout
# none by more than rounding (samples and their order stay).
FREE_TO_CHANGE = (
    "layout",
    *("train.save", "train.log", "data.workers", "data.cache_dir", "output", "env", "launch", "expected"),
    *("eval", "generation", "extends"),
)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What `run.json` holds. `hashes` are those of data and weights; `result` is there once the run has finished."""

    run_id: str
    recipe: Mapping[str, Any]
    versions: Mapping[str, str]
    hashes: Mapping[str, str]
    started: str
    command: tuple[str, ...]
    result: Mapping[str, Any] | None = None

    @classmethod
    def start(cls, recipe: Mapping[str, Any], hashes: Mapping[str, str]) -> RunRecord:
        """Make the record of a run that starts now."""
        now = time.gmtime()
        return cls(
            run_id=f"{time.strftime('%Y%m%dT%H%M%SZ', now)}-{secrets.token_hex(3)}",
            recipe=recipe,
            versions=installed_versions(),
            hashes=hashes,
            started=time.strftime("%Y-%m-%dT%H:%M:%SZ", now),
            command=tuple(Path(sys.argv[0]).name if i == 0 else word for i, word in enumerate(sys.argv)),
        )

    def write(self, folder: Path) -> None:
        """Write `run.json`, whole or not at all."""
        content = {"format": RECORD_FORMAT, **self.__dict__}
        atomic_write(folder / RUN_FILE, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def installed_versions() -> dict[str, str]:
    """Name the versions of Python, the platform and every package that can change a result."""
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def read_record(folder: Path) -> RunRecord | None:
    """Read the record of the run that owns the folder; None where the folder is missing or empty.

    Raises OutputError when the folder holds files but no readable `run.json`: they are somebody's, not ours.
    """
    path = folder / RUN_FILE
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise OutputError(Problem(where=str(folder), key="output.dir", message="is a file, not a folder", fix=_ELSE))
    if not path.exists():
        # Hidden files are no content: our own lock, a version-control placeholder, a file manager's notes. Nor are the
        # logs: of several machines, another one's launcher may have been first.
        strangers = sorted(entry.name for entry in folder.iterdir() if entry.name[0] != "." and entry.name != LOGS)
        if strangers:
            number = "a file" if len(strangers) == 1 else f"{len(strangers)} files"
            message = f"holds {number} that no run wrote (first: {printable(strangers[0])}) and no {RUN_FILE}"
            raise OutputError(Problem(where=str(folder), key="output.dir", message=message, fix=_ELSE))
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (version := content.pop("format")) != RECORD_FORMAT:
            raise ValueError(f"format {version}; this version reads {RECORD_FORMAT}")
        return RunRecord(**{**content, "command": tuple(content["command"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"is not the record of a run: {error}"
        raise OutputError(Problem(where=str(path), key="output.dir", message=message, fix=_ELSE)) from error


_ELSE = "choose another folder: --set output.dir=runs/another_name"


def recipe_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """List (key, ours, theirs) for every setting that changes what is computed and differs between two recipes."""
    flat_ours, flat_theirs = dict(_flatten(ours)), dict(_flatten(theirs))
    return [
        (key, flat_ours.get(key), flat_theirs.get(key))
        for key in sorted(flat_ours.keys() | flat_theirs.keys())
        if flat_ours.get(key) != flat_theirs.get(key)
        and not any(key == free or key.startswith(f"{free}.") for free in FREE_TO_CHANGE)
    ]


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            # Through JSON, as the other side was read from it: tuples and lists are the same there.
            yield f"{prefix}{key}", json.loads(json.dumps(value))


def check_continues(record: RunRecord, folder: Path, recipe: Mapping[str, Any], hashes: Mapping[str, str]) -> None:
    """Raise OutputError unless the folder's run is this one: same computed settings, same data, same weights."""
    differences = recipe_differences(recipe, record.recipe)
    rows = [f"{key}: here {ours!r}, there {theirs!r}" for key, ours, theirs in differences]
    rows += [
        f"{name} hash: here {hashes.get(name, 'none')[:12]}, there {record.hashes.get(name, 'none')[:12]}"
        for name in sorted(hashes.keys() | record.hashes.keys())
        if hashes.get(name) != record.hashes.get(name)
    ]
    if rows:
        message = f"belongs to another run ({record.run_id}, started {record.started}):\n" + "\n".join(rows[:20])
        raise OutputError(Problem(where=str(folder / RUN_FILE), key="output.dir", message=message, fix=_ELSE))


def check_unchanged(record: RunRecord | None, folder: Path) -> None:
    """Raise OutputError if the folder's record is not the one that was read before the lock was taken."""
    found = read_record(folder)
    if found != record:
        message = "another process has used this folder while this one was checking its input"
        fix = "run the same command again"
        raise OutputError(Problem(where=str(folder), key="output.dir", message=message, fix=fix))


def check_writable(folder: Path) -> None:
    """Raise OutputError unless files can be made in the folder, or in the nearest parent that exists.

    Really writes and removes a file: permission bits do not tell of read-only mounts, quotas or a superuser.
    """
    parent = folder
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    try:
        handle, name = tempfile.mkstemp(prefix=".qvl-probe-", dir=parent)
        os.close(handle)
        Path(name).unlink()
    except OSError as error:
        message = f"cannot be written: {error.strerror} ({parent})"
        raise OutputError(Problem(where=str(folder), key="output.dir", message=message, fix=_ELSE)) from error
