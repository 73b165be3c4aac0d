"""Records as users write them, to one checked form.

Formats of this version: `llava` (`conversations` with `from`/`value`, `image` a string, a list or absent) and
`sharegpt` (`messages` with `role`/`content`, `images`). `FORMATS` is the table that later formats join.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvl_core.errors import DataError, Problem

from qvl_data.records.json_records import Element, iterate_elements, read_data_file
from qvl_data.records.problem_list import ProblemList
from qvl_data.records.record import MediaKind, Medium, Record, Role, Turn

IMAGE_MARKER = "<image>"
VIDEO_MARKER = "<video>"
_MARKER = re.compile("(<image>|<video>)")
_KINDS: dict[str, MediaKind] = {IMAGE_MARKER: "image", VIDEO_MARKER: "video"}
_EXCERPT = 80


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where one format keeps things: the list of turns, the keys in a turn, the role names, the media."""

    turns: str
    role: str
    text: str
    roles: dict[str, Role]
    media: Callable[[dict[str, Any], list[str]], tuple[tuple[str, ...], tuple[str, ...]]]


def read_records(
    path: Path, *, format_name: str, max_samples: int | None = None, problems: ProblemList
) -> tuple[list[Record], bytes]:
    """Give the first `max_samples` records of a file (all if None) in file order, and the bytes that were read.

    Each wrong record adds a problem and is left out. Raises DataError if the file as a whole cannot be read.
    """
    data = read_data_file(path)
    records: list[Record] = []
    elements = 0
    for element in iterate_elements(data, path):
        if max_samples is not None and elements >= max_samples:
            break
        elements += 1
        found = parse_element(element, path=path, format_name=format_name)
        if isinstance(found, Record):
            records.append(found)
        else:
            problems.extend(found)
    if not elements:
        raise DataError(Problem(where=str(path), message="the list is empty: 0 records"))
    return records, data


def parse_element(element: Element, *, path: Path, format_name: str) -> Record | tuple[Problem, ...]:
    """Give the checked record of one element, or everything that is wrong with it."""
    where = element.where(path)
    layout = FORMATS.get(format_name)
    if layout is None:
        known = ", ".join(sorted(FORMATS))
        raise DataError(
            Problem(
                where=str(path), key="data.sources.format", message=f"unknown format {format_name!r}; known: {known}"
            )
        )
    messages: list[str] = [element.error] if element.error else []
    record = None if element.error else _parse_record(element.value, layout, where, messages)
    if record is not None and not messages:
        return record
    label = f"record {element.index}"
    return tuple(Problem(where=where, key=label, message=message) for message in messages)


def _parse_record(value: Any, layout: _Layout, where: str, messages: list[str]) -> Record | None:
    if not isinstance(value, dict):
        messages.append(f"is {_kind(value)}, not an object")
        return None
    raw_turns = value.get(layout.turns)
    if not isinstance(raw_turns, list) or not raw_turns:
        found = "is missing" if raw_turns is None else ("is empty" if raw_turns == [] else f"is {_kind(raw_turns)}")
        messages.append(f"`{layout.turns}` {found}; it holds the list of messages. Keys found: {_keys(value)}")
        return None
    images, videos = layout.media(value, messages)
    turns = tuple(_parse_turns(raw_turns, layout, messages))
    if messages:
        return None
    _check_order(turns, messages)
    _check_contents(turns, messages)
    media = _in_order(turns, {"image": images, "video": videos}, messages)
    return Record(where=where, turns=turns, media=media)


def _parse_turns(raw_turns: list[Any], layout: _Layout, messages: list[str]) -> Iterator[Turn]:
    for number, raw in enumerate(raw_turns):
        name = f"`{layout.turns}[{number}]`"
        if not isinstance(raw, dict):
            messages.append(f"{name} is {_kind(raw)}, not an object")
            continue
        role, text = raw.get(layout.role), raw.get(layout.text)
        if not isinstance(role, str) or role not in layout.roles:
            known = ", ".join(layout.roles)
            messages.append(f"{name} has `{layout.role}` {_excerpt(role)}; known are {known}")
            continue
        if not isinstance(text, str):
            messages.append(f"{name} has `{layout.text}` of kind {_kind(text)}, not a string")
            continue
        pieces = _MARKER.split(text)
        kinds = tuple(_KINDS[marker] for marker in pieces[1::2])
        yield Turn(role=layout.roles[role], texts=tuple(pieces[::2]), media=kinds)


def _in_order(
    turns: tuple[Turn, ...], paths: dict[MediaKind, tuple[str, ...]], messages: list[str]
) -> tuple[Medium, ...]:
    """Give the media in the order of their markers; add a message where markers and paths differ in number."""
    kinds = [kind for turn in turns for kind in turn.media]
    for kind, written in paths.items():
        markers = kinds.count(kind)
        if markers != len(written):
            counted = f"{markers} <{kind}> marker(s) in the text, {len(written)} {kind}(s) in the record"
            messages.append(f"{counted}; each {kind} needs one")
    if messages:
        return ()
    left = {kind: iter(written) for kind, written in paths.items()}
    return tuple(Medium(kind=kind, written=next(left[kind])) for kind in kinds)


def _check_order(turns: tuple[Turn, ...], messages: list[str]) -> None:
    """Demand: system once at the start or not at all, then user and assistant in turn, an assistant at the end."""
    start = 1 if turns[0].role == "system" else 0
    expected: Role = "user"
    for number, turn in enumerate(turns[start:], start):
        if turn.role != expected:
            messages.append(f"message {number} is of the {turn.role}; expected one of the {expected} there")
            return
        expected = "assistant" if expected == "user" else "user"
    if len(turns) == start or turns[-1].role != "assistant":
        messages.append("the last message is not of the assistant: there is no answer to learn")


def _check_contents(turns: tuple[Turn, ...], messages: list[str]) -> None:
    for number, turn in enumerate(turns):
        is_blank = not "".join(turn.texts).strip()
        if is_blank and turn.role == "assistant":
            messages.append(f"message {number}: the answer is empty")
        elif is_blank and turn.role == "user" and not turn.media:
            messages.append(f"message {number}: the user's message is empty")
        if turn.media and turn.role not in ("user", "tool"):
            marker = f"<{turn.media[0]}>"
            messages.append(f"message {number}: {marker} in a message of the {turn.role}; media go to the user's")


def _llava_media(value: dict[str, Any], messages: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if "images" in value and "image" not in value:
        messages.append("has `images`; the llava format has `image` (a string or a list)")
    return _path_list(value.get("image"), "image", messages), _path_list(value.get("video"), "video", messages)


def _sharegpt_media(value: dict[str, Any], messages: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if value.get("audios"):
        messages.append("has `audios`, which Qwen2.5-VL cannot hear")
    if "image" in value and "images" not in value:
        messages.append("has `image`; the sharegpt format has `images` (a list)")
    return _path_list(value.get("images"), "images", messages), _path_list(value.get("videos"), "videos", messages)


def _path_list(raw: Any, key: str, messages: list[str]) -> tuple[str, ...]:
    if raw is None or raw == "" or raw == []:
        return ()
    paths = [raw] if isinstance(raw, str) else raw
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        messages.append(f"`{key}` is {_excerpt(raw)}; expected a path or a list of paths")
        return ()
    return tuple(paths)


FORMATS = {
    "llava": _Layout(
        turns="conversations",
        role="from",
        text="value",
        roles={"human": "user", "gpt": "assistant", "system": "system"},
        media=_llava_media,
    ),
    "sharegpt": _Layout(
        turns="messages",
        role="role",
        text="content",
        roles={"user": "user", "assistant": "assistant", "system": "system"},
        media=_sharegpt_media,
    ),
}


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _keys(value: dict[str, Any]) -> str:
    return _excerpt(", ".join(sorted(value))) if value else "none"


def _excerpt(value: Any) -> str:
    text = repr(value) if not isinstance(value, str) else value
    short = text if len(text) <= _EXCERPT else text[:_EXCERPT] + "..."
    return repr(short) if isinstance(value, str) else short
