"""What became of every setting of the old files, and the recipes that are made of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from qvl_core.migrate.shell_text import GAP

Fate = Literal["no_effect", "no_counterpart", "unknown", "in_accord"]

# WANDB_API_KEY, HF_TOKEN, --hf-token; not TOKENIZERS_PARALLELISM, --pad-token-id, --calculate-per-token-loss.
_SECRET_NAME = re.compile(
    r"(?i)(?:HF|HUB|API|AUTH|ACCESS)[-_]?TOKEN(?!I)|TOKEN$|SECRET|PASSW|CREDENTIAL|(?:API|ACCESS|PRIVATE).?KEY"
)
# NAME=VALUE and NAME = VALUE in a text.
_ASSIGNED = re.compile(r"(?<![\w-])(?P<name>-{0,2}[A-Za-z_][\w-]*)(?P<sign>\s?=\s?)(?P<value>[^\s=]*[^\s=:,;])")
_HIDDEN = "(not shown)"
# A short value is a word that stands elsewhere too; where its name stands beside it, it is hidden all the same.
_LEAST_LENGTH = 8


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A value of an old file: `said` is its name there (`--lr`, `basic_parameters.dataset`), `where` file:line."""

    value: Any
    where: str
    said: str

    @property
    def text(self) -> str:
        return self.value if isinstance(self.value, str) else _short(self.value)


@dataclass(frozen=True, kw_only=True)
class Carried:
    """A recipe key and where its value comes from; `where` is empty for what no file states."""

    key: str
    value: Any
    where: str
    said: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Left:
    """A setting that has no row among the values of a recipe, and why; `in_accord` agrees with what is there."""

    fate: Fate
    where: str
    said: str
    value: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Contradiction:
    """Two places that state different things; `used` says what the recipe has."""

    what: str
    places: tuple[tuple[str, str], ...]
    used: str


@dataclass(kw_only=True)
class RecipeDraft:
    """A recipe in the making. Keys are dotted; the order of putting is the order of writing within a table."""

    name: str
    task: Literal["sft", "eval", "infer"]
    model: str = ""
    rows: dict[str, Carried] = field(default_factory=dict)

    def put(self, key: str, value: Any, setting: Setting | None = None, note: str = "") -> None:
        """State a key; a later statement replaces an earlier one."""
        where, said = (setting.where, setting.said) if setting else ("", "")
        self.rows[key] = Carried(key=key, value=value, where=where, said=said, note=note)

    def value(self, key: str, default: Any = None) -> Any:
        return self.rows[key].value if key in self.rows else default


@dataclass(kw_only=True)
class Ledger:
    """All findings of one migration, in the order of finding; told once each."""

    left: list[Left] = field(default_factory=list)
    contradictions: list[Contradiction] = field(default_factory=list)
    remarks: list[tuple[str, str]] = field(default_factory=list)
    # Place and name of settings of the structure that were compared with the published model, and are the same there.
    published: set[tuple[str, str]] = field(default_factory=set)
    # Values that no text shows, whatever they were put into.
    _secrets: list[str] = field(default_factory=list)

    def keep_back(self, named: Iterable[tuple[str, str]]) -> None:
        """Take the values of a script whose names say that they are secrets: no text shows them from here on."""
        values = {value for name, value in named if kept_back(name, value) != value and GAP not in value}
        long = {value for value in values if len(value) >= _LEAST_LENGTH}
        # As JSON and TOML write them, too.
        quoted = {json.dumps(value, ensure_ascii=False)[1:-1] for value in long}
        self._secrets = sorted(long | quoted | set(self._secrets), key=len, reverse=True)

    def hide(self, text: str) -> str:
        """Write a word in the place of every secret that is known."""
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        return text

    def leave(self, fate: Fate, setting: Setting, why: str) -> None:
        value, why = self._readable(setting.text), self._readable(why)
        self._add(self.left, Left(fate=fate, where=setting.where, said=setting.said, value=value, why=why))

    def contradict(self, what: str, settings: Iterable[Setting], used: str) -> None:
        """Tell that places state different things. A text is quoted where it stands against a number."""
        rows = list(settings)
        mixed = len({isinstance(setting.value, str) for setting in rows}) > 1
        shown = [_short(row.value) if mixed and _is_quoted_number(row) else row.text for row in rows]
        texts = [self._readable(f"{row.said} = {text}") for row, text in zip(rows, shown, strict=True)]
        places = tuple((row.where, text) for row, text in zip(rows, texts, strict=True))
        what, used = self._readable(what), self._readable(used)
        self._add(self.contradictions, Contradiction(what=what, places=places, used=used))

    def remark(self, where: str, text: str) -> None:
        self._add(self.remarks, (where, self._readable(text)))

    def _readable(self, text: str) -> str:
        """Write what is not known as words: it stands in texts as a sign that prints as nothing. Secrets are hidden."""
        return _ASSIGNED.sub(_shown, self.hide(text)).replace(GAP, "<not known>")

    @staticmethod
    def _add(rows: list[Any], row: Any) -> None:
        # Files are shared between recipes: what is said of a file is said once.
        if row not in rows:
            rows.append(row)


def kept_back(name: str, value: str) -> str:
    """Give a script's value, or a word in its place where its name says that it is a secret: reports are passed on.

    Numbers of few digits and marks of a template are none: --max-new-token 5, image_token = <image>.
    """
    plain = (value.isdecimal() and len(value) < _LEAST_LENGTH) or value.startswith(("<", _HIDDEN))
    return _HIDDEN if value and not plain and _SECRET_NAME.search(name) else value


def _shown(found: re.Match[str]) -> str:
    if _HIDDEN.startswith(found["value"]):
        return found[0]
    return f"{found['name']}{found['sign']}{kept_back(found['name'], found['value'])}"


def _is_quoted_number(setting: Setting) -> bool:
    """Tell whether a JSON file has a number in quotes; in a script all values are texts."""
    number = isinstance(setting.value, str) and setting.value.strip().lstrip("-").replace(".", "", 1).isdecimal()
    return number and ".json:" in setting.where


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."
