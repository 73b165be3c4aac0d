"""Integer arithmetic of the shell: counts of devices, batches, counters of loops. Runs nothing."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable

_TOKEN = re.compile(
    r"\s*(0[xX][0-9a-fA-F]+|\d+#\w+|\d+|[A-Za-z_]\w*|\*\*|<<=|>>=|\+\+|--|&&|\|\||[-+*/%&|^]=|<<|>>|[<>=!]=|[-+*/%()<>=!~&|^?:,])"
)
_NAME = re.compile(r"[A-Za-z_]\w*")
_ASSIGNING = ("=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>=")
# From the loosest to the tightest; the shell's own order.
_LEVELS: tuple[tuple[str, ...], ...] = (
    *(("||",), ("&&",), ("|",), ("^",), ("&",), ("==", "!="), ("<", ">", "<=", ">="), ("<<", ">>")),
    *(("+", "-"), ("*", "/", "%")),
)
_PLAIN: dict[str, Callable[[int, int], int]] = {
    **{"|": operator.or_, "^": operator.xor, "&": operator.and_, "+": operator.add, "-": operator.sub},
    **{"*": operator.mul, "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt},
    **{"<=": operator.le, ">=": operator.ge},
    "<<": lambda left, right: left << (right & 63),
    ">>": lambda left, right: left >> (right & 63),
}
_DEEPEST = 100


class _UnknownError(Exception):
    """The value cannot be told."""


def calculate(
    expression: str,
    number_of: Callable[[str], int | None],
    assign: Callable[[str, int], None] | None = None,
) -> int | None:
    """Give the value of an expression; None where it is not known or not understood.

    `assign` gets what the expression sets, and only where the whole of it is known.
    """
    try:
        found = _Calculation(_tokens(expression), number_of)
        value = found.whole()
    except (_UnknownError, RecursionError):
        return None
    for name, number in found.written.items():
        if assign is None:
            return None
        assign(name, number)
    return value


def _tokens(expression: str) -> list[str]:
    tokens, at, end = [], 0, len(expression.rstrip())
    while at < end:
        match = _TOKEN.match(expression, at, end)
        if match is None:
            raise _UnknownError
        tokens.append(match[1])
        at = match.end()
    return tokens


def _wrapped(value: int) -> int:
    """Keep a number in the shell's 64 bits."""
    return (int(value) + (1 << 63)) % (1 << 64) - (1 << 63)


def _applied(sign: str, left: int, right: int) -> int:
    if sign in ("/", "%"):
        if right == 0:
            raise _UnknownError
        # The shell rounds towards zero.
        quotient = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)
        return _wrapped(quotient if sign == "/" else left - quotient * right)
    return _wrapped(_PLAIN[sign](left, right))


class _Calculation:
    """One expression. `live` is off in what && and || and ?: leave out: there nothing is read and nothing set."""

    def __init__(self, tokens: list[str], number_of: Callable[[str], int | None]) -> None:
        self._tokens = tokens
        self._at = 0
        self._number_of = number_of
        self._live = True
        self._depth = 0
        self.written: dict[str, int] = {}

    def whole(self) -> int:
        if not self._tokens:
            return 0
        value = self._comma()
        if self._at < len(self._tokens):
            raise _UnknownError
        return value

    def _peek(self, ahead: int = 0) -> str:
        at = self._at + ahead
        return self._tokens[at] if at < len(self._tokens) else ""

    def _take(self, *wanted: str) -> str:
        token = self._peek()
        if wanted and token not in wanted:
            raise _UnknownError
        self._at += 1
        return token

    def _comma(self) -> int:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _UnknownError
        value = self._assignment()
        while self._peek() == ",":
            self._take()
            value = self._assignment()
        self._depth -= 1
        return value

    def _assignment(self) -> int:
        name, sign = self._peek(), self._peek(1)
        if not (_NAME.fullmatch(name) and sign in _ASSIGNING):
            return self._choice()
        self._at += 2
        before = self._read(name) if sign != "=" else 0
        value = self._assignment()
        if sign != "=":
            value = self._combined(sign[:-1], before, value)
        self._write(name, value)
        return value

    def _choice(self) -> int:
        condition = self._level(0)
        if self._peek() != "?":
            return condition
        self._take()
        first = self._if(bool(condition), self._comma)
        self._take(":")
        second = self._if(not condition, self._assignment)
        return first if condition else second

    def _level(self, level: int) -> int:
        if level == len(_LEVELS):
            return self._power()
        value = self._level(level + 1)
        while self._peek() in _LEVELS[level]:
            sign = self._take()
            if sign in ("&&", "||"):
                other = self._if(bool(value) == (sign == "&&"), lambda: self._level(level + 1))
                value = int(bool(value) and bool(other)) if sign == "&&" else int(bool(value) or bool(other))
            else:
                value = self._combined(sign, value, self._level(level + 1))
        return value

    def _power(self) -> int:
        value = self._unary()
        if self._peek() != "**":
            return value
        self._take()
        exponent = self._power()
        if self._live and not 0 <= exponent < 1000:
            raise _UnknownError
        return _wrapped(value**exponent) if self._live else 0

    def _unary(self) -> int:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _UnknownError
        value = self._signed()
        self._depth -= 1
        return value

    def _signed(self) -> int:
        read = self._take()
        if read in ("++", "--") and _NAME.fullmatch(self._peek()):
            name = self._take()
            value = _wrapped(self._read(name) + (1 if read == "++" else -1))
            self._write(name, value)
            return value
        if read in ("+", "-", "!", "~"):
            value = self._unary()
            return {"+": value, "-": _wrapped(-value), "!": int(not value), "~": ~value}[read]
        if read == "(":
            value = self._comma()
            self._take(")")
            return value
        if _NAME.fullmatch(read):
            value = self._read(read)
            if self._peek() in ("++", "--"):
                self._write(read, _wrapped(value + (1 if self._take() == "++" else -1)))
            return value
        return _literal(read)

    def _combined(self, sign: str, left: int, right: int) -> int:
        return _applied(sign, left, right) if self._live else 0

    def _if(self, live: bool, part: Callable[[], int]) -> int:
        before, self._live = self._live, self._live and live
        value = part()
        self._live = before
        return value

    def _read(self, name: str) -> int:
        if not self._live:
            return 0
        value = self.written.get(name)
        value = self._number_of(name) if value is None else value
        if value is None:
            raise _UnknownError
        return value

    def _write(self, name: str, value: int) -> None:
        if self._live:
            self.written[name] = value


def _literal(written: str) -> int:
    """Read 12, 0x1f, 017 and 2#101; a word that is none of them makes the value unknown."""
    base, hash_, digits = written.partition("#")
    try:
        if hash_:
            return _wrapped(int(digits, int(base)))
        octal = written.isdecimal() and written.startswith("0") and len(written) > 1
        return _wrapped(int(written, 8 if octal else 0))
    except ValueError:
        raise _UnknownError from None
