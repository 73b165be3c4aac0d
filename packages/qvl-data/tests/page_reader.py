"""Read a page as a browser would, and refuse what our pages must not have."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "input", "img", "br", "hr"}
_URL = re.compile(r"""(?:https?:)?//|javascript:|url\(|@import""", re.IGNORECASE)
_CARRIERS = {"src", "href", "action", "data", "poster", "srcset", "formaction", "background", "xlink:href"}


class PageReader(HTMLParser):
    """The texts, titles and elements of a page. Raises AssertionError for what is not closed, or leads outside."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.titles: list[str] = []
        self.policy = ""
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def count(self, tag: str, **wanted: str) -> int:
        return sum(
            name == tag and all(have.get(key.rstrip("_")) == value for key, value in wanted.items())
            for name, have in self.tags
        )

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        have = {key: value or "" for key, value in attrs}
        assert tag not in {"script", "iframe", "object", "embed", "link", "base", "form"}, tag
        assert not [key for key in have if key.startswith("on")], (tag, have)
        for key in _CARRIERS & have.keys():
            assert have[key].startswith(("data:image/", "#")), (tag, key, have[key])
        if "style" in have:
            assert re.fullmatch(r"width:[\d.]+(%|px)", have["style"]), have["style"]
        if have.get("http-equiv") == "Content-Security-Policy":
            self.policy = have["content"]
        if "title" in have:
            self.titles.append(have["title"])
        self.tags.append((tag, have))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            assert not _URL.search(data), _URL.search(data)
        elif self.open and self.open[-1] == "title":
            self.titles.append(data)
        else:
            self.texts.append(data)
