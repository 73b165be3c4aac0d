"""What `run.json` says of a run, as far as it can be read: recipe, versions, hashes, and what it went on with."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from qvl_core.errors import InputError, OutputError
from qvl_core.input_file import printable
from qvl_core.json_file import read_json_object
from qvl_core.run_folder import RECORD_FORMAT, RUN_FILE

# As a row of metrics may have them.
_MOST_STEPS = 2**62
_TABLES = ("recipe", "versions", "hashes")
# What an entry of the history has pairs of: what it was before, and what it is now.
_CHANGING = ("settings", "versions", "machine", "variables", "code")


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """That a run went on with something else: after which step, when, and what was changed, as texts."""

    step: int | None
    at: str
    changes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What `run.json` says, as far as it can be read; what is not there is empty, and `format` 0."""

    format: int = 0
    run_id: str = ""
    started: str = ""
    command: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None
    history: tuple[Mapping[str, Any], ...] = ()
    machine: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    @property
    def has_record(self) -> bool:
        """Tell whether anything is known of what the run was made with."""
        return bool(self.recipe or self.versions or self.hashes)

    @property
    def task(self) -> str:
        return str(self.recipe.get("task", ""))

    @property
    def began(self) -> float | None:
        """When the run was started, seconds since 1970; None where that cannot be read."""
        try:
            return datetime.strptime(self.started, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp()
        except ValueError:
            return None

    @property
    def total_steps(self) -> int | None:
        """How many steps the run is to take, where its recipe or its result says so."""
        train = self.recipe.get("train")
        if isinstance(train, Mapping) and train.get("steps") is not None:
            return _count(train, "steps")
        return self.steps_taken

    @property
    def steps_taken(self) -> int | None:
        """How many steps a finished run has taken, where its result says so."""
        return _count(self.result, "steps")

    @property
    def logged_every(self) -> int | None:
        """How many steps a row stands for: by the recipe, so that of a continued run it is the number of its end."""
        train = self.recipe.get("train")
        log = train.get("log") if isinstance(train, Mapping) else None
        return _count(log, "every")

    @property
    def first_logged_every(self) -> int | None:
        """How many steps a row stood for when the run began: its history tells where it went on with another number."""
        for entry in self.history:
            settings = entry.get("settings")
            pair = settings.get("train.log.every") if isinstance(settings, Mapping) else None
            if isinstance(pair, list) and len(pair) == 2:
                return _count({"every": pair[0]}, "every")
        return self.logged_every

    @property
    def continued(self) -> list[Continuation]:
        """What the run was continued with; what an entry does not say is left out."""
        found = []
        for entry in self.history:
            step, changes = entry.get("after_step"), entry.get("differences")
            texts = [str(text) for text in changes] if isinstance(changes, list) else []
            for table in _CHANGING:
                pairs = entry.get(table)
                for name, pair in pairs.items() if isinstance(pairs, Mapping) else ():
                    texts.append(_changed(table, str(name), pair))
            number = step if isinstance(step, int) else None
            found.append(Continuation(step=number, at=str(entry.get("at", "")), changes=tuple(texts)))
        return found

    def known(self, table: Literal["versions", "machine", "variables", "code"]) -> dict[str, str]:
        """Give what the run was last continued with."""
        found = dict(getattr(self, table))
        for entry in self.history:
            changed = entry.get(table)
            for name, pair in changed.items() if isinstance(changed, Mapping) else ():
                if isinstance(pair, list) and len(pair) == 2:
                    found.pop(str(name), None)
                    if pair[1] is not None:
                        found[str(name)] = str(pair[1])
        return found


def read_facts(folder: Path) -> RunFacts:
    """Read `run.json` as far as it goes: another format or a broken file is a notice, not an end."""
    path = folder / RUN_FILE
    if not path.exists():
        return RunFacts(notices=(f"There is no {RUN_FILE}: recipe, versions and hashes of this run are not known.",))
    try:
        content = read_json_object(path, error_type=OutputError)
    except InputError as error:
        told = printable(error.problems[0].message)
        return RunFacts(notices=(f"{RUN_FILE} cannot be used: {told}.",))
    version = content.get("format")
    notices = []
    if version != RECORD_FORMAT:
        notices.append(
            f"{RUN_FILE} has format {printable(str(version))}; this version knows {RECORD_FORMAT}: "
            "what it has under the same names is shown."
        )
    wrong = [name for name in _TABLES if not isinstance(content.get(name), dict)]
    if wrong:
        notices.append(f"{RUN_FILE} has no {' and no '.join(wrong)}.")
    result, history, command = content.get("result"), content.get("history"), content.get("command")
    return RunFacts(
        format=version if isinstance(version, int) else 0,
        run_id=str(content.get("run_id", "")),
        started=str(content.get("started", "")),
        command=shlex.join(map(str, command)) if isinstance(command, list) else "",
        recipe=content["recipe"] if "recipe" not in wrong else {},
        versions=_texts(content.get("versions")),
        hashes=_texts(content.get("hashes")),
        machine=_texts(content.get("machine")),
        variables=_texts(content.get("variables")),
        files=_texts(content.get("files")),
        code=_texts(content.get("code")),
        result=result if isinstance(result, dict) else None,
        history=tuple(one for one in history if isinstance(one, dict)) if isinstance(history, list) else (),
        notices=tuple(notices),
    )


def _count(table: object, key: str) -> int | None:
    """Give a whole number of a table, if it has it."""
    number = table.get(key) if isinstance(table, Mapping) else None
    is_one = isinstance(number, int) and not isinstance(number, bool) and abs(number) <= _MOST_STEPS
    return number if is_one else None


def _texts(table: object) -> dict[str, str]:
    """Give a table of texts; other values as their JSON."""
    if not isinstance(table, dict):
        return {}
    return {str(key): value if isinstance(value, str) else json.dumps(value) for key, value in table.items()}


def _changed(table: str, name: str, pair: object) -> str:
    """Say what has become of a version, a variable, ...; of code, whose digests say nothing, that it is another one."""
    if table == "code":
        return f"the code of {name} has changed"
    return f"{name} {' -> '.join(map(_side, pair)) if isinstance(pair, list) else pair}"


def _side(value: object) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
