"""What `[ ... ]`, `test` and `[[ ... ]]` say, where it can be told without looking at files or running anything."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qvl_core.migrate.shell_arithmetic import calculate
from qvl_core.migrate.shell_text import GAP

_COMPARED: dict[str, Callable[[int, int], bool]] = {
    "-eq": lambda left, right: left == right,
    "-ne": lambda left, right: left != right,
    "-lt": lambda left, right: left < right,
    "-le": lambda left, right: left <= right,
    "-gt": lambda left, right: left > right,
    "-ge": lambda left, right: left >= right,
}
_EQUAL = ("=", "==", "!=")
_UNARY = re.compile(r"-[a-zA-Z]")


@dataclass(frozen=True, kw_only=True)
class Token:
    """A word of a condition after expansion. `operator` is set for (, ), && and || of `[[`; `quoted` for any quote."""

    text: str
    operator: bool = False
    quoted: bool = False


def holds(tokens: Sequence[Token], number_of: Callable[[str], int | None], *, double: bool = False) -> bool | None:
    """Tell whether a condition holds; None where that cannot be known. `double` is for `[[`."""
    if double:
        return _DoubleCondition(tokens, number_of).whole()
    negated = len(tokens) > 1 and tokens[0].text == "!"
    rest = tokens[1:] if negated else tokens
    return _inverted(_single(rest, number_of, double=False), negated)


def glob_pattern(text: str) -> re.Pattern[str] | None:
    """Give a regular expression for a pattern of the shell; None for what is more than * ? and [...]."""
    if GAP in text or re.search(r"[?*+@!]\(", text):
        return None
    parts, at = [], 0
    while at < len(text):
        char = text[at]
        found = re.compile(r"\[([!^]?)(\]?[^\]\[\\]*)\]").match(text, at) if char == "[" else None
        if found:
            inner = found[2].replace("\\", "\\\\")
            parts.append(f"[{'^' if found[1] else ''}{inner}]")
            at = found.end()
            continue
        parts.append({"*": ".*", "?": "."}.get(char, re.escape(char)))
        at += 1
    try:
        return re.compile("".join(parts), re.DOTALL)
    except re.error:
        return None


def _inverted(value: bool | None, negated: bool) -> bool | None:
    return value if value is None or not negated else not value


def _single(tokens: Sequence[Token], number_of: Callable[[str], int | None], *, double: bool) -> bool | None:
    """Judge one condition of at most three words."""
    texts = [token.text for token in tokens]
    if not texts:
        return False
    if len(texts) == 1:
        return None if GAP in texts[0] else bool(texts[0])
    if len(texts) == 2:
        if GAP in texts[1]:
            # A gap with something beside it may be empty or not only where it is all there is.
            known = bool(texts[1].replace(GAP, ""))
            return _inverted(known or None, texts[0] == "-z") if texts[0] in ("-n", "-z") else None
        return {"-n": bool(texts[1]), "-z": not texts[1], "!": not texts[1]}.get(texts[0])
    if len(texts) != 3:
        return None
    left, sign, right = texts
    if GAP in left or GAP in right:
        return None
    if sign in _EQUAL:
        return _equal(left, sign, right, pattern=double and not tokens[2].quoted)
    if sign not in _COMPARED:
        return None
    numbers = [_number(text, number_of, double=double) for text in (left, right)]
    return None if None in numbers else _COMPARED[sign](*numbers)  # type: ignore[arg-type]


def _equal(left: str, sign: str, right: str, *, pattern: bool) -> bool | None:
    if not (pattern and re.search(r"[*?\[]", right)):
        return (left == right) == (sign != "!=")
    found = glob_pattern(right)
    return None if found is None else bool(found.fullmatch(left)) == (sign != "!=")


def _number(text: str, number_of: Callable[[str], int | None], *, double: bool) -> int | None:
    if double:
        return calculate(text, number_of)
    return int(text) if re.fullmatch(r"\s*[-+]?\d{1,18}\s*", text) else None


class _DoubleCondition:
    """`[[ a && ( b || ! c ) ]]`."""

    def __init__(self, tokens: Sequence[Token], number_of: Callable[[str], int | None]) -> None:
        self._tokens = list(tokens)
        self._at = 0
        self._number_of = number_of

    def whole(self) -> bool | None:
        try:
            value = self._any()
        except (IndexError, RecursionError):
            return None
        return value if self._at == len(self._tokens) else None

    def _is(self, text: str) -> bool:
        token = self._tokens[self._at] if self._at < len(self._tokens) else None
        return token is not None and token.operator and token.text == text

    def _any(self) -> bool | None:
        values = [self._all()]
        while self._is("||"):
            self._at += 1
            values.append(self._all())
        return True if True in values else None if None in values else False

    def _all(self) -> bool | None:
        values = [self._one()]
        while self._is("&&"):
            self._at += 1
            values.append(self._one())
        return False if False in values else None if None in values else True

    def _one(self) -> bool | None:
        token = self._tokens[self._at]
        if token.text == "!" and not token.quoted:
            self._at += 1
            return _inverted(self._one(), negated=True)
        if self._is("("):
            self._at += 1
            value = self._any()
            self._at += 1
            return value
        start = self._at
        while self._at < len(self._tokens) and not self._tokens[self._at].operator:
            self._at += 1
        if start == self._at:
            raise IndexError
        return _single(self._tokens[start : self._at], self._number_of, double=True)
