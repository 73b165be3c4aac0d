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

    def messages(self, request: ChatRequest) -> tuple[Message, ...]:
        """Give the conversation. Raises Refusal, a 400 that names the part."""
        count = sum(
            not isinstance(part, TextPart)
            for message in request.messages
            if not isinstance(message.content, str)
            for part in message.content
        )
        if count > self.limits.media:
            text = f"the request has {count} images and videos; at most {self.limits.media} are taken"
            raise bad_request(text, "messages")
        return tuple(self._message(message, f"messages.{number}") for number, message in enumerate(request.messages))

    def _message(self, message: WireMessage, where: str) -> Message:
        role = "system" if message.role == "developer" else message.role
        if isinstance(message.content, str):
            return Message(role=role, parts=(message.content,))
        parts = []
        for number, part in enumerate(message.content):
            here = f"{where}.content.{number}"
            if role != "user" and not isinstance(part, TextPart):
                raise bad_request(f"only messages of the user hold media, not those of the {role}", here)
            parts.append(self._part(part, here))
        return Message(role=role, parts=tuple(parts))

    def _part(self, part: TextPart | ImagePart | VideoPart, where: str) -> PromptPart:
        if isinstance(part, TextPart):
            return part.text
        if isinstance(part, VideoPart):
            return PromptVideo(path=self._file(part.video_url.url, f"{where}.video_url.url", "videos"))
        where, url = f"{where}.image_url.url", part.image_url.url
        source = _decoded(url, where) if url[:5].lower() == "data:" else self._file(url, where, "images")
        return PromptImage(source=source, max_source_pixels=self.limits.image_pixels)

    def _file(self, url: str, where: str, kind: str) -> Path:
        """Give the real path of a file under the root. Raises Refusal for anything else, before it is looked at."""
        path = url
        if url[:8].lower() == "file:///":
            path = unquote(url[7:], errors="surrogateescape")
        elif _SCHEME.match(url) or url.startswith("//"):
            shown = ascii(url[:40])
            raise bad_request(f"{shown} is not fetched: this server opens no network connection", where, "remote_url")
        if self.root is None:
            raise bad_request(f"{kind} by path are off; the server's --allow-root DIR allows a folder", where)
        try:
            # A new one for each path: what an old one remembers of links may have changed.
            return MediaRoot(self.root).resolve(path)
        except MediaPathError as error:
            text = self.public(str(error).replace("media_root", "the allowed root"))
            raise bad_request(text, where) from None

    def public(self, text: str) -> str:
        """Give a text without the place of the root, which is no client's business."""
        return text if self.root is None else text.replace(f"{self.root}/", "").replace(str(self.root), "")


def _decoded(url: str, where: str) -> bytes:
    """Give the bytes of a data URL. Raises Refusal."""
    head = _DATA.match(url[:200])
    if head is None or not (head["type"] or "").lower().startswith("image/"):
        raise bad_request("a data URL of an image starts with data:image/...;base64,", where)
    if "base64" not in head["options"].lower().split(";"):
        raise bad_request("a data URL has to be in base64", where)
    try:
        data = base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_request(f"the base64 is broken: {error}", where) from None
    if not data:
        raise bad_request("the image is empty: 0 bytes", where)
    return data
