"""Typed reading of keys from an HF config that collects every problem instead of stopping at the first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qvl_core.errors import Problem

_LARGEST = 2**31 - 1
_FIX = "correct the value, or take the config.json that was published with the weights"


class ConfigReader:
    """Reads keys from one section of a config, or from several with the first that has the key winning.

    A key that is missing or of the wrong type adds a problem and gives a stand-in value, so that reading goes on;
    the caller must not use the result once `problems` holds anything.
    """

    def __init__(self, sections: list[tuple[str, Mapping[str, Any]]], *, where: str, problems: list[Problem]) -> None:
        self._sections = sections
        self.where = where
        self.problems = problems

    def complain(self, key: str, message: str, fix: str = "") -> None:
        """Add a problem about a key of this section."""
        self.problems.append(Problem(where=self.where, key=self.path_of(key), message=message, fix=fix or _FIX))

    def path_of(self, key: str) -> str:
        """Give the dotted place of a key: where it stands, or where it should."""
        for prefix, section in self._sections:
            if key in section:
                return prefix + key
        return self._sections[0][0] + key

    def get(self, key: str) -> Any:
        """Give the raw value, None where it is absent or null."""
        return next((section[key] for _, section in self._sections if section.get(key) is not None), None)

    def integer(
        self,
        key: str,
        default: int | None = None,
        *,
        least: int = 1,
        most: int = _LARGEST,
        spellings: tuple[str, ...] = (),
    ) -> int:
        """Give a whole number from `least` to `most`; `spellings` are older names of the key."""
        key = next((name for name in (key, *spellings) if self.get(name) is not None), key)
        value = self.get(key)
        if value is None:
            return self._absent(key, default, least)
        if isinstance(value, bool) or not isinstance(value, int):
            self.complain(key, f"has to be a whole number, is {_shown(value)}")
            return least
        if not least <= value <= most:
            self.complain(key, f"has to lie between {least} and {most}, is {_shown(value)}")
            return least
        return value

    def number(self, key: str, default: float) -> float:
        """Give a finite number above zero."""
        value = self.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e300:
            self.complain(key, f"has to be a finite number above 0, is {_shown(value)}")
            return default
        return float(value)

    def flag(self, key: str) -> bool:
        """Give true where any section sets the key to true."""
        values = [section[key] for _, section in self._sections if section.get(key) is not None]
        for value in values:
            if not isinstance(value, bool):
                self.complain(key, f"has to be true or false, is {_shown(value)}")
        return any(value is True for value in values)

    def integers(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """Give a list of whole numbers of at least 0."""
        value = self.get(key)
        if value is None:
            return default
        fine = isinstance(value, (list, tuple)) and all(
            isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= _LARGEST for item in value
        )
        if not fine:
            self.complain(key, f"has to be a list of whole numbers from 0 on, is {_shown(value)}")
            return default
        return tuple(value)

    def table(self, key: str) -> Mapping[str, Any]:
        """Give a nested section, empty where it is absent."""
        value = self.get(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.complain(key, f"has to be an object, is {_shown(value)}")
            return {}
        return value

    def only(self, key: str, allowed: tuple[object, ...], reason: str) -> None:
        """Complain where the key is set to anything but the allowed values."""
        value = self.get(key)
        if value is not None and not any(value == item and type(value) is type(item) for item in allowed):
            choices = " or ".join(_shown(item) for item in allowed)
            self.complain(key, f"is {_shown(value)}; {reason} ({choices})")

    def _absent(self, key: str, default: int | None, stand_in: int) -> int:
        if default is None:
            self.complain(key, "is missing")
            return stand_in
        return default


def _shown(value: object) -> str:
    # A config can hold anything: 60 characters are enough to recognise a value.
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
