"""New tokens to new text: whole characters only, special tokens left out, ended by stop strings.

What `push` and `finish` give, put together, is the text of all tokens decoded at once (a test holds it to that), cut
before the first stop string. The tokenizers of the family are byte-level, so text may be cut wherever a character ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

# What decoding gives for bytes that are no character, or not one yet.
_INCOMPLETE = "\ufffd"
# Of UTF-8; a token has at least one byte.
_CHARACTER_BYTES = 4
# So many tokens that end in no character have bytes among them that never will.
_MANY = 16


class TextStream:
    """The text of one answer while it grows. `is_stopped` is true once a stop string was met."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        assert all(stops), "an empty stop string would end every answer at once"
        self._decode = decode
        self._stops = tuple(stops)
        self._pending: list[int] = []
        self._held = ""
        self.is_stopped = False

    def push(self, token: int) -> str:
        """Take a token and give the text that is certain now, often none."""
        if self.is_stopped:
            return ""
        self._pending.append(token)
        text = self._decode(self._pending)
        if text.endswith(_INCOMPLETE):
            return self._released(self._certain(text))
        self._pending.clear()
        return self._released(text)

    def _certain(self, text: str) -> str:
        """Take off the front of `text`, which is that of the pending tokens, what no later token can change.

        Bytes that never become characters would else be decoded again with every token. Where the two sides of a cut
        decode to what they decode to together, no character goes over it.
        """
        if len(self._pending) < _MANY:
            return ""
        for cut in range(len(self._pending) - _CHARACTER_BYTES, len(self._pending) - _MANY, -1):
            front = self._decode(self._pending[:cut])
            if front + self._decode(self._pending[cut:]) == text:
                del self._pending[:cut]
                return front
        return ""

    def finish(self) -> str:
        """Give what was held back: the beginning of a character or of a stop string that never came."""
        if self.is_stopped:
            return ""
        text = self._released(self._decode(self._pending) if self._pending else "")
        self._pending.clear()
        held, self._held = self._held, ""
        return text + held

    def _released(self, text: str) -> str:
        if not self._stops:
            return text
        text = self._held + text
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.is_stopped, self._held = True, ""
            return text[: min(found)]
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Give the length of the longest end of `text` that is a beginning of `stop`, short of all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
