"""JSON with the line of every value. Strict, but a repeated key is kept and told: the usual reader takes the last."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from json.decoder import JSONDecodeError, scanstring  # type: ignore[attr-defined]
from typing import Any

Path = tuple[str, ...]
Stated = tuple[int, Any]

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,400})(?:\.\d+)?(?:[eE][+-]?\d{1,4})?(?![\w.])")
_COMMENT = re.compile(r"(?://|#)[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_WORDS = {"true": True, "false": False, "null": None}
# Python's reader, the reference stack's, takes these; no setting can be one of them.
_NO_NUMBER = re.compile(r"-?(?:NaN|Infinity)\b")
_DEEPEST = 60
_TAKE_OUT = "JSON has no comments and no comma after the last item: take them out"


class JsonSourceError(ValueError):
    """Text that is not JSON. `line` counts from 1; `before` are faults that could be read over, line and message."""

    def __init__(self, message: str, line: int, fix: str = "", before: Sequence[tuple[int, str]] = ()) -> None:
        super().__init__(message)
        self.line = line
        self.fix = fix
        self.before = tuple(before)


@dataclass(frozen=True, kw_only=True)
class JsonSource:
    """A JSON object with the line of each key. `repeated` lists (path, first, last) of keys stated twice.

    First and last are (line, value).
    """

    values: dict[str, Any]
    lines: dict[Path, int]
    repeated: tuple[tuple[Path, Stated, Stated], ...]

    def leaves(self) -> Iterator[tuple[Path, Any]]:
        """Yield every value that is no object, with its path; a list counts as one value."""
        yield from _leaves(self.values, ())


def read_json_source(text: str) -> JsonSource:
    """Parse a JSON object. Raises JsonSourceError with line, and a fix for the mistakes that people make."""
    return _Reader(text).read()


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if not isinstance(value, dict):
        yield path, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, (*path, key))


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text.removeprefix("\ufeff")
        self._at = 0
        self._breaks = [index for index, char in enumerate(self._text) if char == "\n"]
        self._lines: dict[Path, int] = {}
        self._repeated: list[tuple[Path, Stated, Stated]] = []
        # Comments and commas too many: read over, so that all of them are told at once.
        self._faults: list[tuple[int, str]] = []

    def read(self) -> JsonSource:
        try:
            found = self._whole()
        except JsonSourceError as error:
            fix = error.fix or (_TAKE_OUT if self._faults else "")
            raise JsonSourceError(str(error), error.line, fix, self._faults) from None
        if self._faults:
            *before, (line, message) = self._faults
            raise JsonSourceError(message, line, _TAKE_OUT, before)
        return found

    def _whole(self) -> JsonSource:
        self._skip()
        if not self._text[self._at :]:
            raise self._error("is empty")
        if self._peek() != "{":
            raise self._error("does not begin with {", "the reference stack's files hold one JSON object")
        values = self._value((), 0)
        self._skip()
        if self._at < len(self._text):
            raise self._error(f"goes on after its end, with {self._text[self._at : self._at + 20]!r}")
        return JsonSource(values=values, lines=self._lines, repeated=tuple(self._repeated))

    def _value(self, path: Path, depth: int) -> Any:
        if depth > _DEEPEST:
            raise self._error("is nested too deeply")
        self._skip()
        start = self._peek()
        if start == "{":
            return self._object(path, depth)
        if start == "[":
            return self._array(path, depth)
        if start == '"':
            return self._string()
        if number := _NUMBER.match(self._text, self._at):
            self._at = number.end()
            written = number[0]
            return float(written) if set(written) & set(".eE") else int(written)
        for word, value in _WORDS.items():
            if self._text.startswith(word, self._at):
                self._at += len(word)
                return value
        if found := _NO_NUMBER.match(self._text, self._at):
            raise self._error(f"{found[0]} stands where a value is expected", "write the number, or null")
        raise self._unexpected("a value")

    def _object(self, path: Path, depth: int) -> dict[str, Any]:
        self._at += 1
        found: dict[str, Any] = {}
        while not self._ends("}", bool(found)):
            if self._peek() != '"':
                raise self._unexpected("a key in double quotes")
            line = self._line()
            key = self._string()
            here = (*path, key)
            before = (self._lines[here], found[key]) if key in found else None
            self._lines[here] = line
            self._skip()
            if self._peek() != ":":
                raise self._unexpected(f"a colon after {key!r}")
            self._at += 1
            found[key] = self._value(here, depth + 1)
            if before:
                self._repeated.append((here, before, (line, found[key])))
        return found

    def _array(self, path: Path, depth: int) -> list[Any]:
        self._at += 1
        found: list[Any] = []
        while not self._ends("]", bool(found)):
            found.append(self._value(path, depth + 1))
        return found

    def _ends(self, closing: str, after_item: bool) -> bool:
        """Step over a comma or the closing bracket; tell whether it was the bracket."""
        self._skip()
        if self._peek() == closing:
            self._at += 1
            return True
        if not after_item:
            return False
        if self._peek() != ",":
            raise self._unexpected(f"a comma or {closing}")
        line = self._line()
        self._at += 1
        self._skip()
        if self._peek() == closing:
            self._at += 1
            self._faults.append((line, f"a comma stands before {closing}: JSON allows none after the last item"))
            return True
        return False

    def _string(self) -> str:
        try:
            value, self._at = scanstring(self._text, self._at + 1, True)
        except JSONDecodeError as error:
            line = bisect_right(self._breaks, error.pos - 1) + 1
            message = f"a text is not right: {error.msg[0].lower()}{error.msg[1:]}"
            raise JsonSourceError(message, line, "close the quotes, and write \\\\ for a backslash") from None
        return str(value)

    def _skip(self) -> None:
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            comment = _COMMENT.match(self._text, self._at)
            if comment is None:
                return
            self._faults.append((self._line(), "a comment stands there: JSON has none"))
            self._at = comment.end()

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _line(self) -> int:
        return bisect_right(self._breaks, self._at - 1) + 1

    def _unexpected(self, wanted: str) -> JsonSourceError:
        rest = self._text[self._at : self._at + 20].split("\n")[0]
        if not self._peek():
            return self._error(f"ends where {wanted} is expected: half of a file?", "get the whole file again")
        if rest.startswith("..."):
            return self._error("holds the `...` of the guide's example", "use the shipped file, with your changes")
        return self._error(f"{rest!r} stands where {wanted} is expected")

    def _error(self, message: str, fix: str = "") -> JsonSourceError:
        return JsonSourceError(message, self._line(), fix)
