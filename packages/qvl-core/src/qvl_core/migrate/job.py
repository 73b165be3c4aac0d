"""What the rules of one recipe work with: its files, the draft, the ledger, and numbers read with care."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from qvl_core.errors import Problem
from qvl_core.migrate.folder import Folder, Launch, Sheet
from qvl_core.migrate.ledger import Fate, Ledger, RecipeDraft, Setting
from qvl_core.migrate.shell_text import GAP

_PAIRS = (
    ("tensor-model-parallel-size", "TP"),
    ("pipeline-model-parallel-size", "PP"),
    ("context-parallel-size", "CP"),
    ("micro-batch-size", "MBS"),
    ("global-batch-size", "GBS"),
    ("seq-length", "SEQ_LEN"),
    ("local-worker-num", "NPUS_PER_NODE"),
    ("worker-num", "WORLD_SIZE"),
    ("master-addr", "MASTER_ADDR"),
    ("master-port", "MASTER_PORT"),
    ("mm-data", "MM_DATA"),
    ("mm-model", "MM_MODEL"),
    ("load", "LOAD_PATH"),
    ("save", "SAVE_PATH"),
)
_MADE = (
    "is made by a command or by a variable of the shell that starts the script; nothing is executed here: "
    "state it yourself if it matters"
)
# What is taken where these are not known is told by rules of their own.
_TOLD = (
    "MASTER_ADDR",
    "NNODES",
    "NODE_RANK",
    "NPUS_PER_NODE",
    "LOCAL_WORKER_NUM",
    "NPROC_PER_NODE",
    "LOAD",
    "LOAD_PATH",
)


@dataclass(kw_only=True)
class Job:
    """One recipe to be made. `stuck` are problems that keep it from being written."""

    draft: RecipeDraft
    folder: Folder
    ledger: Ledger
    key: str
    launch: Launch | None = None
    data: Sheet | None = None
    model: Sheet | None = None
    stuck: list[Problem] = field(default_factory=list)

    def option(self, *names: str) -> Setting | None:
        return self._known(self.launch.option(*names) if self.launch else None)

    def variable(self, *names: str) -> Setting | None:
        return self._known(self.launch.variable(*names) if self.launch else None)

    def _known(self, setting: Setting | None) -> Setting | None:
        if setting is not None and isinstance(setting.value, str) and GAP in setting.value:
            # An option and the variable that it is given stand in one place: that is told once.
            name = setting.said.lstrip("-").upper().replace("-", "_")
            # Of a path only its last part counts where it names a file that is read.
            is_told = name in _TOLD or (name in ("MM_DATA", "MM_MODEL") and GAP not in setting.value.rpartition("/")[2])
            if not is_told and not any(
                where == setting.where and text.endswith(_MADE) for where, text in self.ledger.remarks
            ):
                self.ledger.remark(setting.where, f"{setting.said} {_MADE}")
            return None
        return setting

    def unknown(self, option: str, *variables: str) -> Setting | None:
        """Give an option, or else a variable, that is stated but made by a command; None where it is known."""
        stated = self.launch.option(option) or self.launch.variable(*variables) if self.launch else None
        return stated if stated and isinstance(stated.value, str) and GAP in stated.value else None

    def require_known(self, option: str, *variables: str) -> None:
        """Keep the recipe from being written where a number that decides what is computed cannot be known."""
        if setting := self.unknown(option, *variables):
            message = "is made by a command or by the shell that starts the script; nothing is executed here"
            fix = "write the number into the script"
            self.stuck.append(Problem(where=setting.where, key=setting.said, message=message, fix=fix))

    def whole(self, setting: Setting | None, *, least: int = 0) -> int | None:
        """Give a whole number; None where there is none, after telling what is there instead."""
        number = self.number(setting)
        if setting is None or number is None:
            return None
        if number != int(number) or number < least:
            self._not(setting, f"a whole number of at least {least}")
            return None
        return int(number)

    def number(self, setting: Setting | None) -> float | None:
        """Give a number; None where there is none, after telling what is there instead."""
        if setting is None or setting.value is None:
            return None
        value = setting.value
        if isinstance(value, str) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", value.strip()):
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self._not(setting, "a number")
            return None
        return value

    def switch(self, setting: Setting | None) -> bool | None:
        """Give true or false; None where neither is stated, after telling what is there instead."""
        if setting is None or setting.value is None:
            return None
        if not isinstance(setting.value, bool):
            self._not(setting, "true or false, without quotes")
            return None
        return setting.value

    def _not(self, setting: Setting, wanted: str) -> None:
        shown = setting.text[:80]
        message = f"is {shown!r}; it has to be {wanted}"
        self.stuck.append(Problem(where=setting.where, key=setting.said, message=message, fix="correct it there"))

    def leave(self, fate: Fate, setting: Setting | None, why: str) -> None:
        if setting is not None:
            self.ledger.leave(fate, setting, why)

    def leave_options(self, fate: Fate, table: Mapping[str, str]) -> None:
        for name, why in table.items():
            self.leave(fate, self.launch.option(name) if self.launch else None, why)

    def compare_pairs(self) -> None:
        """Tell where a script's variable is not what its option says: the option is what the program got."""
        for option, variable in _PAIRS:
            stated, held = self.option(option), self.variable(variable)
            if stated and held and isinstance(stated.value, str) and stated.text.strip() != held.text.strip():
                what = f"{variable} is not what --{option} says"
                self.ledger.contradict(what, [held, stated], f"--{option} {stated.text[:80]}, as in the script")

    def missing(self, what: str, key: str, fix: str, said: Setting | None = None) -> None:
        """Keep the recipe from being written; `said` is what stands where the value should."""
        where = said.where if said else str(self.folder.path)
        self.stuck.append(Problem(where=where, key=key, message=what, fix=fix))


def clean_path(path: str) -> str:
    """Give a path without a leading ./ and doubled slashes: ./data//x -> data/x."""
    return str(PurePosixPath(path.strip())) if path.strip() else ""


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
