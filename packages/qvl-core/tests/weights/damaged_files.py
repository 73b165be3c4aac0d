"""Damaged files by the thousand, the same in every run, and what has to hold for each: a result or a clear error."""

import random
import re
import time
import tracemalloc
from pathlib import Path

from qvl_core.errors import InputError, RunError

# Files through the readers, by what is damaged; each test asserts that it tried as many.
COUNTS = {"header": 3_500, "index": 500, "manifest": 600, "config": 500}
# Computing, whatever else the machine does; and what nothing waits for, however busy it is.
SECONDS, WAITED_SECONDS = 30, 300
WATCHED = 5
# The readers' own bound is that of a hostile header of 8 MiB; these files are of a few kB.
MEMORY = 32 * 1024**2

NUMBERS = (
    b"0", b"-1", b"1", b"3", b"0.5", b"1e400", b"-0", b"2147483648", b"9223372036854775807", b"9223372036854775808",
    b"18446744073709551616", b"1" + b"0" * 50, b"9" * 5000, b"NaN", b"Infinity", b"null", b"true", b'"1"', b"[]", b"{}",
)  # fmt: skip
TEXTS = (
    b"", b"..", b"../x", b"/etc/passwd", b"a/b.safetensors", b"x\\u0000y", b"\\ud800", b"model.safetensors", b"F32",
    b"BF16", b"x" * 600, b"\xff", b"rank-pp000-tt000.safetensors", b"__metadata__", b"sha256:" + b"0" * 64,
)  # fmt: skip
_NUMBER = re.compile(rb"-?\d+(\.\d+)?(e-?\d+)?")
_TEXT = re.compile(rb'"[^"]*"')
_PAIR = re.compile(rb'"[^"]+":\s*("[^"]*"|[^{}\[\],]+|\[[^\[\]]*\]|\{[^{}]*\})')


def damaged_text(text: bytes, chance: random.Random) -> bytes:
    """Change JSON text in one to three places: bytes, numbers, texts, pairs, slices."""
    for _ in range(chance.randint(1, 3)):
        text = chance.choice((_flip, _flip, _cut, _splice, _insert, _number, _number, _text, _pair, _nest))(
            text, chance
        )
    return text


def damaged_file(content: bytes, chance: random.Random) -> bytes:
    """Change a safetensors file: its length field, its header, its data, or its end."""
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], content[8 + length :]
    kind = chance.randrange(8)
    if kind == 0:
        return chance.choice((_flip, _cut, _splice, _insert))(content, chance)
    if kind == 1:
        wild = chance.choice((0, 1, length - 1, length + 1, len(content), 2**31, 2**63 - 1, 2**63, 2**64 - 1))
        return wild.to_bytes(8, "little") + content[8:]
    if kind == 2:
        return content[: chance.randrange(len(content))]
    if kind == 3:
        return content + chance.randbytes(chance.randint(1, 50))
    header = damaged_text(header, chance)
    return len(header).to_bytes(8, "little") + header + data


def _span(text: bytes, chance: random.Random, longest: int = 40) -> tuple[int, int]:
    start = chance.randrange(len(text) + 1)
    return start, min(len(text), start + chance.randint(0, longest))


def _flip(text: bytes, chance: random.Random) -> bytes:
    changed = bytearray(text or b"x")
    changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut(text: bytes, chance: random.Random) -> bytes:
    start, stop = _span(text, chance)
    return text[:start] + text[stop:]


def _splice(text: bytes, chance: random.Random) -> bytes:
    start, stop = _span(text, chance, 200)
    at = chance.randrange(len(text) + 1)
    return text[:at] + text[start:stop] + text[at:]


def _insert(text: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(text) + 1)
    return text[:at] + chance.choice((b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\0", b" ", b"\n")) + text[at:]


def _replaced(text: bytes, found: list[re.Match[bytes]], new: bytes, chance: random.Random) -> bytes:
    if not found:
        return text
    one = chance.choice(found)
    return text[: one.start()] + new + text[one.end() :]


def _number(text: bytes, chance: random.Random) -> bytes:
    return _replaced(text, list(_NUMBER.finditer(text)), chance.choice(NUMBERS), chance)


def _text(text: bytes, chance: random.Random) -> bytes:
    return _replaced(text, list(_TEXT.finditer(text)), b'"' + chance.choice(TEXTS) + b'"', chance)


def _pair(text: bytes, chance: random.Random) -> bytes:
    """Repeat a key and its value, or remove them."""
    found = list(_PAIR.finditer(text))
    if not found:
        return text
    one = chance.choice(found)
    if chance.randrange(2):
        return text[: one.end()] + b", " + one[0] + text[one.end() :]
    return text[: one.start()] + text[one.end() :].lstrip(b", \n")


def _nest(text: bytes, chance: random.Random) -> bytes:
    depth = chance.choice((3, 100, 5_000))
    return _replaced(text, list(_NUMBER.finditer(text)), b"[" * depth + b"]" * depth, chance)


class Trial:
    """Gives damaged content to a reader and holds it to its promises; counts what was read and what refused."""

    def __init__(self, folder: Path, file: Path) -> None:
        self.file = file
        self.read = self.refused = 0
        self._folder = folder
        file.touch()
        self._names = self._listing()

    def run(self, content: bytes, reader) -> object:
        """Give what the reader gives, or None if it refused. Anything but a clear error fails the test."""
        self.file.write_bytes(content)
        # Watching the memory takes four times as long as the reading.
        watched = (self.read + self.refused) % WATCHED == 0
        if watched:
            tracemalloc.start()
        started, computed = time.monotonic(), time.process_time()
        try:
            found = reader()
        except (InputError, RunError) as error:
            found, message = None, str(error)
        else:
            message = ""
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert time.process_time() - computed < SECONDS, content[:500]
        assert time.monotonic() - started < WAITED_SECONDS, content[:500]
        assert peak < MEMORY, content[:500]
        if found is None:
            self.refused += 1
            assert 0 < len(message) < 20_000
            assert str(self.file.parent) in message, f"{message} names no file"
        else:
            self.read += 1
        return found

    def finish(self, kind: str, share: int = 1) -> None:
        """Assert that all were tried, that both outcomes occurred, and that no file came or went."""
        assert self.read + self.refused == COUNTS[kind] // share
        assert self.read
        assert self.refused > self.read
        assert self._listing() == self._names

    def _listing(self) -> dict[str, int]:
        return {
            str(path): path.stat().st_mtime_ns if path.is_file() and path != self.file else 0
            for path in self._folder.rglob("*")
            if path != self.file.parent
        }
