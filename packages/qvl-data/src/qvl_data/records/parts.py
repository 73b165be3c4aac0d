"""Content lists and tool calls of OpenAI-style messages.

A tool call is written the way the family's published chat templates write it: a JSON object between `<tool_call>` and
`</tool_call>`, each on its own line.
"""

from __future__ import annotations

import json
import re
from typing import Any

from qvl_core.json_file import JsonError

from qvl_data.records.complaints import Complaints, excerpt, kind_of, names_of
from qvl_data.records.record import MediaKind, Medium
from qvl_data.records.strict_json import parse_record

_MEDIA_PARTS: dict[str, MediaKind] = {
    "image": "image",
    "image_url": "image",
    "video": "video",
    "video_url": "video",
}
# What a part may say besides its type and its medium; the rest (limits of pixels and frames) would change the sample.
_HARMLESS = {"type", "detail", "format", "id", "uuid", "cache_control"}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/|(?:data|file):", re.IGNORECASE)
_URL_FIX = "save it as a file under media_root and write its path"


def parse_parts(content: Any, name: str, may_be_null: bool, complaints: Complaints) -> tuple[list[str], list[Medium]]:
    """Give the texts of a message and the media between them, one fewer. Texts without a medium between are joined."""
    texts: list[str] = [""]
    media: list[Medium] = []
    if isinstance(content, str):
        return [content], media
    if content is None and may_be_null:
        return texts, media
    if not isinstance(content, list):
        complaints.add(f"`{name}` is {kind_of(content)}, neither a string nor a list of parts")
        return texts, media
    for number, part in enumerate(content):
        where = f"{name}[{number}]"
        if not isinstance(part, dict):
            complaints.add(f"`{where}` is {kind_of(part)}, not an object")
            continue
        kind = part.get("type")
        if kind == "text":
            text = part.get("text")
            if isinstance(text, str):
                texts[-1] += text
            else:
                complaints.add(f"`{where}` has `text` of kind {kind_of(text)}, not a string")
        elif isinstance(kind, str) and kind in _MEDIA_PARTS:
            path = _path(part, kind, where, complaints)
            media.append(Medium(kind=_MEDIA_PARTS[kind], written=path))
            texts.append("")
        else:
            known = ", ".join(("text", *_MEDIA_PARTS))
            complaints.add(f"`{where}` has `type` {excerpt(kind)}; known are {known}")
    return texts, media


def tool_calls_text(calls: Any, name: str, complaints: Complaints) -> str:
    """Give the text of an assistant's tool calls."""
    if not isinstance(calls, list):
        complaints.add(f"`{name}` has `tool_calls` of kind {kind_of(calls)}, not a list")
        return ""
    return "\n".join(_call_text(call, f"{name}.tool_calls[{n}]", complaints) for n, call in enumerate(calls))


def _call_text(call: Any, where: str, complaints: Complaints) -> str:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        complaints.add(
            f"`{where}` has no `function` with a `name`; expected {{'function': {{'name': .., 'arguments': ..}}}}"
        )
        return ""
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        # OpenAI writes the arguments as the text of a JSON object, the templates as the object itself.
        try:
            arguments = parse_record(arguments.encode("utf-8", "surrogatepass") or b"{}")
        except JsonError as error:
            complaints.add(f"`{where}`: `arguments` is a string that is no JSON object: {error}")
            return ""
    if not isinstance(arguments, dict):
        complaints.add(f"`{where}`: `arguments` is {kind_of(arguments)}, not an object")
        return ""
    text = json.dumps({"name": function["name"], "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{text}\n</tool_call>"


def _path(part: dict[str, Any], kind: str, where: str, complaints: Complaints) -> str:
    found = part.get(kind)
    if isinstance(found, dict):
        found = found.get("url")
    extra = {key for key, value in part.items() if value is not None} - _HARMLESS - {kind}
    if extra:
        complaints.add(
            f"`{where}` has {names_of(extra)} beside its {kind}; how media are sampled and sized is the recipe's",
            "remove it, and set the limits under [data.image] and [data.video]",
        )
    if not isinstance(found, str) or not found:
        shown = "a list of frames" if isinstance(found, list) else kind_of(found) if found != "" else "empty"
        complaints.add(f"`{where}`: `{kind}` is {shown}; expected a path")
        return ""
    if _URL.match(found):
        complaints.add(f"`{where}`: `{kind}` is the URL {excerpt(found)}; only files are read", _URL_FIX)
    return found
