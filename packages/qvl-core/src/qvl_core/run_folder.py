"""The folder that a run writes to: whose it is, whether it can be written, and the record `run.json` in it."""

from __future__ import annotations

import json
import platform
import secrets
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from qvl_core.durable import atomic_write
from qvl_core.errors import OutputError, Problem
from qvl_core.input_file import printable
from qvl_core.machine import machine_facts, result_variables
from qvl_core.own_code import PACKAGES, code_digests

RUN_FILE = "run.json"
LOGS = "logs"
RECORD_FORMAT = 1
_MOST_FILES = 1000
RECORDED_PACKAGES = (
    *PACKAGES,
    *("mindspore", "numpy", "transformers", "tokenizers", "pillow", "av", "pyarrow", "safetensors"),
)

# Settings that may differ between a run and its continuation: they change no number that the run computes, the layout
# none by more than rounding (samples and their order stay).
FREE_TO_CHANGE = (
    "layout",
    *("train.save", "train.log", "data.workers", "data.cache_dir", "output", "env", "launch", "expected"),
    *("data.media_check", "data.on_bad_sample", "data.max_bad_samples", "data.sample_timeout_s", "data.vision_cache"),
    "data.video.timeout_s",
    *("eval", "generation", "extends"),
)
# Of these, what says nothing of how a run went on.
_NOT_TOLD = ("output", "expected", "extends")

# What decides which tensors there are, of the model and of its optimizer: no checkpoint has those of other settings.
NEVER_TO_CHANGE = ("task", "model", "train.lora", "train.optimizer.name")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What `run.json` holds. `hashes` are those of data and weights; `result` is there once the run has finished.

    `recipe` and `hashes` are what the run goes on with, `versions` what it began with. `history` has an entry for each
    continuation that was not as before: see `changed`. `machine` and `variables` are those that the run began with, see
    `machine`; `files` the sha256 of each file of records, by path; `code` that of each of qvl's packages, see
    `own_code`. Records of earlier versions lack these four.
    """

    run_id: str
    recipe: Mapping[str, Any]
    versions: Mapping[str, str]
    hashes: Mapping[str, str]
    started: str
    command: tuple[str, ...]
    result: Mapping[str, Any] | None = None
    history: tuple[Mapping[str, Any], ...] = ()
    machine: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def start(
        cls, recipe: Mapping[str, Any], hashes: Mapping[str, str], files: Mapping[str, str] | None = None
    ) -> RunRecord:
        """Make the record of a run that starts now."""
        now = time.gmtime()
        return cls(
            run_id=f"{time.strftime('%Y%m%dT%H%M%SZ', now)}-{secrets.token_hex(3)}",
            recipe=recipe,
            versions=installed_versions(),
            hashes=hashes,
            started=time.strftime("%Y-%m-%dT%H:%M:%SZ", now),
            command=tuple(Path(sys.argv[0]).name if i == 0 else word for i, word in enumerate(sys.argv)),
            machine=machine_facts(),
            variables=result_variables(_stated(recipe)),
            files=files or {},
            code=code_digests(),
        )

    def known_versions(self) -> dict[str, str]:
        """Give the versions that the run was last continued with."""
        return self.known("versions")

    def known(self, table: Literal["versions", "machine", "variables", "code"]) -> dict[str, str]:
        """Give what the run was last continued with."""
        found: dict[str, str] = dict(getattr(self, table))
        for entry in self.history:
            for name, (_, new) in entry.get(table, {}).items():
                found[name] = new
        return {name: value for name, value in found.items() if value is not None}

    def _place(self) -> dict[str, str]:
        # Where relative paths start from, and what a process may have been confined to: no other machine.
        return {name: self.machine[name] for name in ("directory", "cores") if name in self.machine}

    def data_hashes(self) -> set[str]:
        """Give the hashes of all data that the run has used, with consent, so far."""
        earlier = {entry["hashes"]["data"][0] for entry in self.history if "data" in entry["hashes"]}
        return earlier | {self.hashes["data"]}

    def changed(
        self,
        recipe: Mapping[str, Any],
        hashes: Mapping[str, str],
        differences: Sequence[str],
        *,
        step: int,
        files: Mapping[str, str] | None = None,
        settings: Mapping[str, Sequence[Any]] | None = None,
    ) -> RunRecord:
        """Give the record of a continuation after `step` with these (accepted) differences and today's versions.

        The entry in the history: `at`, `after_step`, `differences` as they were shown, and [before, now] of each hash,
        version, fact of the machine, variable and digest of code that is another one, and of `settings`, those that are
        free to change (see `free_changes`). Without any there is no entry. `files` are those of the hashes.
        """
        versions = _changes(self.known_versions(), installed_versions())
        # A record of an earlier version says nothing of these; today's are no change.
        machine = _changes(self.known("machine"), {**machine_facts(), **self._place()}) if self.machine else {}
        variables = _changes(self.known("variables"), result_variables(_stated(recipe))) if self.machine else {}
        code = _changes(self.known("code"), code_digests()) if self.code else {}
        if not (differences or versions or machine or variables or code or settings):
            return self
        entry = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "after_step": step,
            "differences": list(differences),
            "hashes": _changes(self.hashes, hashes),
            "versions": versions,
            **({"machine": machine} if machine else {}),
            **({"variables": variables} if variables else {}),
            **({"code": code} if code else {}),
            **({"settings": dict(settings)} if settings else {}),
        }
        kept = self.files if files is None else files
        return replace(self, recipe=recipe, hashes=hashes, files=kept, history=(*self.history, entry))

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


def recorded_files(digests: Mapping[str, str]) -> dict[str, str]:
    """Give the files of records that a record names; of very many the first ones by path. The data hash has all."""
    return {path: digests[path] for path in sorted(digests)[:_MOST_FILES]}


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
        tuples = {"command": tuple(content["command"]), "history": tuple(content.get("history", ()))}
        return RunRecord(**{**content, **tuples})
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
        if flat_ours.get(key) != flat_theirs.get(key) and not _is_below(key, FREE_TO_CHANGE)
    ]


def free_changes(recipe: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Give [before, now] of every setting of a run that it goes on with otherwise, and that is free to change.

    Where a run writes to, and what was measured or extended, are no settings of it.
    """
    ours, theirs = dict(_flatten(recipe)), dict(_flatten(before))
    return {
        key: [theirs.get(key), ours.get(key)]
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key) and _is_below(key, FREE_TO_CHANGE) and not _is_below(key, _NOT_TOLD)
    }


def _is_below(key: str, tables: Iterable[str]) -> bool:
    return any(key == table or key.startswith(f"{table}.") for table in tables)


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            # Through JSON, as the other side was read from it: tuples and lists are the same there.
            yield f"{prefix}{key}", json.loads(json.dumps(value))


def check_continues(
    record: RunRecord, folder: Path, recipe: Mapping[str, Any], hashes: Mapping[str, str], *, accept: bool = False
) -> list[str]:
    """Raise OutputError unless the folder's run is this one: same computed settings, same data, same weights.

    With `accept` it may differ, except in what its checkpoints cannot be continued with; the differences are given.
    """
    differences = recipe_differences(recipe, record.recipe)
    rows = [f"{key}: here {ours!r}, there {theirs!r}" for key, ours, theirs in differences]
    rows += [
        f"{name} hash: here {hashes.get(name, 'none')[:12]}, there {record.hashes.get(name, 'none')[:12]}"
        for name in _different(hashes, record.hashes)
    ]
    refused = _reasons([key for key, _, _ in differences], recipe)
    if accept and not refused:
        return rows
    if rows:
        message = f"belongs to another run ({record.run_id}, started {record.started}):\n" + "\n".join(rows[:20])
        fix = f"{_ELSE}\nor go on with the changes: --accept-changes"
        if refused:
            message = "\n".join([message, *refused])
            fix = _ELSE
        raise OutputError(Problem(where=str(folder / RUN_FILE), key="output.dir", message=message, fix=fix))
    return []


def _reasons(changed: Sequence[str], recipe: Mapping[str, Any]) -> list[str]:
    """Give why a run cannot be continued with changes of these keys, whoever accepts them; nothing where it can."""
    reasons = []
    tensors = [key for key in changed if _is_below(key, NEVER_TO_CHANGE)]
    if tensors:
        reasons.append(f"{', '.join(tensors)}: its checkpoints hold other tensors than such a run has")
    if "train.global_batch" in changed and (recipe.get("train") or {}).get("epochs"):
        # What is left of the epochs would depend on what was taken with the other batch.
        reasons.append("train.global_batch: cannot be changed where train.epochs says how long; state train.steps")
    return reasons


def version_changes(record: RunRecord) -> list[str]:
    """List, as text, what is installed in another version than when the run was last continued."""
    known, now = record.known_versions(), installed_versions()
    return [f"{name}: here {now.get(name, 'none')}, there {known.get(name, 'none')}" for name in _different(known, now)]


def _different(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    return [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]


def _stated(recipe: Mapping[str, Any]) -> set[str]:
    """Name the variables that a recipe states under [env]."""
    found = recipe.get("env")
    return {name for name, value in found.items() if value is not None} if isinstance(found, Mapping) else set()


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, list[str | None]]:
    return {name: [before.get(name), now.get(name)] for name in _different(before, now)}


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
        # On Linux it has no name, so that a kill leaves nothing behind.
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        message = f"cannot be written: {error.strerror} ({parent})"
        raise OutputError(Problem(where=str(folder), key="output.dir", message=message, fix=_ELSE)) from error
