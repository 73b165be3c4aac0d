"""Find the line of every key of a TOML document. The TOML reader gives values only, and errors need lines.

The scanner assumes a document that the TOML reader has accepted; on any other it gives lines that may be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

KeyPath = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]\}\r\n#]*")
# Longest delimiter first: an empty string '' must not be taken for the start of '''.
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}(?!")|'
    r"'''.*?'{3,5}(?!')|"
    r'"(?:\\.|[^"\\\n])*"|'
    r"'[^'\n]*'",
    re.DOTALL,
)


def key_lines(text: str) -> dict[KeyPath, int]:
    """Give the line (from 1) where each key, table and array element is stated.

    A path holds table keys and array indexes: `("data", "sources", 0, "path")`. A table named by a header has the
    header's line; one made by a dotted key or an inline table has the line of that key.
    """
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        # Position and line of the last key: keys come in order, so newlines are counted once.
        self._counted = 0
        self._line = 1
        self._lines: dict[KeyPath, int] = {}
        self._array_lengths: dict[KeyPath, int] = {}

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while self._skip(_BLANK) < len(self._text):
            start = self._position
            if self._text.startswith("[[", start):
                table = self._array_header()
            elif self._text[start] == "[":
                table = self._table_header()
            else:
                self._pair(table)
            if self._position == start:
                break
        return self._lines

    def _table_header(self) -> KeyPath:
        self._position += 1
        table = self._inside_arrays(tuple(self._dotted_key()))
        self._note(table)
        self._to_line_end()
        return table

    def _array_header(self) -> KeyPath:
        self._position += 2
        *parents, name = self._dotted_key()
        array = (*self._inside_arrays(tuple(parents)), name)
        index = self._array_lengths.get(array, 0)
        self._array_lengths[array] = index + 1
        self._note(array)
        self._note((*array, index))
        self._to_line_end()
        return (*array, index)

    def _inside_arrays(self, keys: tuple[str, ...]) -> KeyPath:
        """Insert the index of the newest element after each key that names an array of tables."""
        path: KeyPath = ()
        for key in keys:
            path = (*path, key)
            if path in self._array_lengths:
                path = (*path, self._array_lengths[path] - 1)
        return path

    def _pair(self, table: KeyPath) -> None:
        start = self._position
        path: KeyPath = table
        for key in self._dotted_key():
            path = (*path, key)
            self._note(path, at=start)
        self._skip(_SPACE)
        if self._text.startswith("=", self._position):
            self._position += 1
            self._value(path)

    def _value(self, path: KeyPath) -> None:
        self._skip(_SPACE)
        match self._text[self._position : self._position + 1]:
            case "[":
                self._array(path)
            case "{":
                self._inline_table(path)
            case '"' | "'":
                if self._skip(_STRING) == self._position and self._text[self._position : self._position + 1] in "\"'":
                    self._position = len(self._text)
            case _:
                self._skip(_SCALAR)

    def _array(self, path: KeyPath) -> None:
        for index in self._items("]"):
            self._note((*path, index))
            self._value((*path, index))

    def _inline_table(self, path: KeyPath) -> None:
        for _ in self._items("}"):
            self._pair(path)

    def _items(self, closing: str) -> Iterator[int]:
        """Stop at each item of an array or inline table, and leave the position behind the closing bracket."""
        self._position += 1
        index = 0
        while self._skip(_BLANK) < len(self._text):
            start = self._position
            if self._text[start] == closing:
                self._position += 1
                return
            if self._text[start] == ",":
                self._position += 1
                continue
            yield index
            index += 1
            if self._position == start:
                self._position = len(self._text)

    def _dotted_key(self) -> list[str]:
        keys = []
        while True:
            self._skip(_SPACE)
            start = self._position
            quoted = self._text[start : start + 1] in ('"', "'")
            self._skip(_STRING if quoted else _BARE_KEY)
            part = self._text[start : self._position]
            keys.append(_unquote(part) if quoted else part)
            self._skip(_SPACE)
            if not self._text.startswith(".", self._position):
                return keys
            self._position += 1

    def _note(self, path: KeyPath, at: int | None = None) -> None:
        position = self._position if at is None else at
        if position > self._counted:
            self._line += self._text.count("\n", self._counted, position)
            self._counted = position
        self._lines.setdefault(path, self._line)

    def _to_line_end(self) -> None:
        end = self._text.find("\n", self._position)
        self._position = len(self._text) if end < 0 else end

    def _skip(self, pattern: re.Pattern[str]) -> int:
        found = pattern.match(self._text, self._position)
        if found:
            self._position = found.end()
        return self._position


def _unquote(part: str) -> str:
    """Give the text of a quoted key; escapes are resolved by the TOML reader itself."""
    if part.startswith("'"):
        return part[1:-1]
    if "\\" not in part:
        return part[1:-1]
    import tomli

    try:
        return str(tomli.loads(f"key = {part}")["key"])
    except ValueError:
        return part[1:-1]
