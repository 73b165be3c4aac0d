"""HTML that is safe by construction: every text is escaped where it is put in, and only `element` makes markup.

Records are other people's files: a caption, a path or an answer may hold tags, quotes, control characters or half a
surrogate pair. None of them gets into a page as anything but visible text.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from html import escape

_HTML_VOID = frozenset({"meta", "input", "img", "br", "hr"})
_VOID = _HTML_VOID | {"rect", "line", "path", "circle", "polygon", "image", "use"}


class Html(str):
    """Text that is markup already. Only this module makes one."""

    __slots__ = ()


Child = str | int | None
Attribute = str | int | float | bool | None


def element(name: str, /, *children: Child | Iterable[Child], **attributes: Attribute) -> Html:
    """Give an element. Children that are no Html are escaped; None is nothing, an iterable is its members.

    Attributes lose a `_` at the end and turn every other one into `-`; None and False leave them out.
    """
    head = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None)
    if name in _VOID and not children:
        return Html(f"<{name}{head}>" if name in _HTML_VOID else f"<{name}{head}/>")
    return Html(f"<{name}{head}>{join(*children)}</{name}>")


def join(*children: Child | Iterable[Child]) -> Html:
    """Give children one after another, escaped where they are no Html."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, str | int):
            parts.append(escaped(str(child)))
        else:
            parts.append(join(*child))
    return Html("".join(parts))


def style_sheet(css: str) -> Html:
    """Give a style element of our own CSS, which nothing of a record gets into."""
    assert "</" not in css
    return Html(f"<style>\n{css}</style>")


def script(code: str) -> Html:
    """Give a script element of our own code, which nothing of a record gets into."""
    assert "</script" not in code.lower()
    assert "<!--" not in code
    return Html(f"<script>\n{code}</script>")


def data_block(id_: str, value: object) -> Html:
    """Give a value as JSON that a script of the page reads; browsers do not run it."""
    text = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    return Html(f'<script type="application/json" id="{escaped(id_)}">{text}</script>')


def policy_hash(block: Html) -> str:
    """Give what a Content-Security-Policy names a style or script element by: the sha256 of what stands in it."""
    text = block[block.index(">") + 1 : block.rindex("</")]
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def document(head: Html, body: Html, *, mark: str) -> str:
    """Give a whole page; `mark`, a comment of ours, stands in its first line."""
    return f'<!DOCTYPE html>{mark}\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def escaped(text: str) -> Html:
    """Give text as HTML. Control characters, also those that turn the reading direction, become visible escapes."""
    return Html(escape(visible(text), quote=True))


def visible(text: str) -> str:
    """Give text in which only line breaks, tabs and printable characters are left; the others are spelled out."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text)


def _attribute(key: str, value: Attribute) -> str:
    if value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escaped(str(value))}"'
