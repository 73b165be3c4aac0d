"""Image and video URLs of a request, to bytes and files. No network connection is ever made.

Images come inside the request (`data:image/...;base64,`) or, where the server has a root for them, as the path of a
file under it, written plainly or as `file:///...`. Everything else is refused before anything is opened.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from qvl_data.media.paths import MediaPathError, MediaRoot
from qvl_data.prompt import Message, PromptImage, PromptVideo
from qvl_data.prompt import Part as PromptPart

from qvl_eval.serve.limits import Limits
from qvl_eval.serve.refusal import bad_request
from qvl_eval.serve.wire import ChatRequest, ImagePart, TextPart, VideoPart, WireMessage

_DATA = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)?(?P<options>(?:;[\w.+=-]+)*),", re.ASCII | re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass(frozen=True, kw_only=True)
class MediaRules:
    """Where media may come from, and how many."""

    limits: Limits
    root: Path | None = None

    def check(self, request: ChatRequest) -> None:
        """Raise Refusal, a 400, for what can be told without opening or decoding anything."""
        count = 0
        for number, message in enumerate(request.messages):
            for index, part in enumerate(() if isinstance(message.content, str) else message.content):
                if isinstance(part, TextPart):
                    continue
                count += 1
                where = f"messages.{number}.content.{index}"
                if message.role != "user":
                    raise bad_request(f"only messages of the user hold media, not those of the {message.role}", where)
                self._check_url(part, where)
        if count > self.limits.media:
            text = f"the request has {count} images and videos; at most {self.limits.media} are taken"
            raise bad_request(text, "messages")

    def messages(self, request: ChatRequest) -> tuple[Message, ...]:
        """Give the conversation of a request that was checked. Raises Refusal, a 400 that names the part."""
        return tuple(self._message(message, f"messages.{number}") for number, message in enumerate(request.messages))

    def _message(self, message: WireMessage, where: str) -> Message:
        role = "system" if message.role == "developer" else message.role
        if isinstance(message.content, str):
            return Message(role=role, parts=(message.content,))
        parts = []
        for number, part in enumerate(message.content):
            parts.append(self._part(part, f"{where}.content.{number}"))
        return Message(role=role, parts=tuple(parts))

    def _part(self, part: TextPart | ImagePart | VideoPart, where: str) -> PromptPart:
        if isinstance(part, TextPart):
            return part.text
        if isinstance(part, VideoPart):
            return PromptVideo(path=self._file(part.video_url.url, f"{where}.video_url.url"))
        where, url = f"{where}.image_url.url", part.image_url.url
        source = _decoded(url, where) if _is_data(url) else self._file(url, where)
        return PromptImage(source=source, max_source_pixels=self.limits.image_pixels)

    def _check_url(self, part: ImagePart | VideoPart, where: str) -> None:
        is_image = isinstance(part, ImagePart)
        where = f"{where}.{part.type}.url"
        url = part.image_url.url if isinstance(part, ImagePart) else part.video_url.url
        if is_image and _is_data(url):
            _check_data(url, where)
            return
        if not _is_file(url) and (_SCHEME.match(url) or url.startswith("//")):
            shown = ascii(url[:40])
            raise bad_request(f"{shown} is not fetched: this server opens no network connection", where, "remote_url")
        if self.root is None:
            kind = "images" if is_image else "videos"
            raise bad_request(f"{kind} by path are off; the server's --allow-root DIR allows a folder", where)

    def _file(self, url: str, where: str) -> Path:
        """Give the real path of a file under the root. Raises Refusal for anything else, before it is looked at."""
        assert self.root is not None, "checked before"
        path = unquote(url[7:], errors="surrogateescape") if _is_file(url) else url
        try:
            # A new one for each path: what an old one remembers of links may have changed.
            return MediaRoot(self.root).resolve(path)
        except MediaPathError as error:
            text = self.public(str(error).replace("media_root", "the allowed root"))
            raise bad_request(text, where) from None

    def public(self, text: str) -> str:
        """Give a text without the place of the root, which is no client's business."""
        return text if self.root is None else text.replace(f"{self.root}/", "").replace(str(self.root), "")


def _is_data(url: str) -> bool:
    return url[:5].lower() == "data:"


def _is_file(url: str) -> bool:
    return url[:8].lower() == "file:///"


def _check_data(url: str, where: str) -> int:
    """Give the place in a data URL where its base64 begins. Raises Refusal."""
    head = _DATA.match(url[:200])
    if head is None or not (head["type"] or "").lower().startswith("image/"):
        raise bad_request("a data URL of an image starts with data:image/...;base64,", where)
    if "base64" not in head["options"].lower().split(";"):
        raise bad_request("a data URL has to be in base64", where)
    if len(url) == head.end():
        raise bad_request("the image is empty: 0 bytes", where)
    if not url.isascii():
        # One such character makes the whole text take four times its size, for as long as it waits.
        raise bad_request("the base64 is broken: it holds characters that are not ASCII", where)
    return head.end()


def _decoded(url: str, where: str) -> bytes:
    """Give the bytes of a data URL. Raises Refusal."""
    try:
        return base64.b64decode(url[_check_data(url, where) :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_request(f"the base64 is broken: {error}", where) from None
