"""Messages of records to turns: texts with media between them, and the rules that hold for any conversation."""

from __future__ import annotations

import json
import re
from typing import Any

from qvl_data.records.complaints import Complaints, excerpt, format_fix, kind_of
from qvl_data.records.layouts import Layout
from qvl_data.records.parts import parse_parts, tool_calls_text
from qvl_data.records.record import MediaKind, Medium, Role, Turn

IMAGE_MARKER = "<image>"
VIDEO_MARKER = "<video>"
_MARKER = re.compile("(<image>|<video>)")
_KINDS: dict[str, MediaKind] = {IMAGE_MARKER: "image", VIDEO_MARKER: "video"}
# Keys by which other tools leave an answer out of the loss; here it would be learned all the same.
_UNLEARNED = {"weight": 0, "loss": False}


def parse_turns(raw_turns: list[Any], layout: Layout, complaints: Complaints) -> tuple[list[Turn], list[Medium]]:
    """Give the turns, and the media that stand inside the messages (formats with parts) in their order."""
    turns: list[Turn] = []
    media: list[Medium] = []
    for number, raw in enumerate(raw_turns):
        name = f"{layout.turns}[{number}]"
        if not isinstance(raw, dict):
            complaints.add(f"`{name}` is {kind_of(raw)}, not an object")
            continue
        role = raw.get(layout.role)
        if not isinstance(role, str) or role not in layout.roles:
            known = ", ".join(layout.roles)
            complaints.add(f"`{name}` has `{layout.role}` {excerpt(role)}; known are {known}", kind="role")
            continue
        _refuse_unlearned(raw, name, complaints)
        if layout.has_parts:
            turn = _turn_of_parts(raw, layout, name, media, complaints)
        else:
            turn = _turn_of_text(raw, layout, name, complaints)
        if turn is not None:
            turns.append(turn)
    return turns, media


def check_order(turns: list[Turn], complaints: Complaints) -> None:
    """Demand: system once at the start or not at all; then a user, or after an answer tools, and an answer, in turn.

    Several messages of tools may follow one another. The last message is an answer.
    """
    start = 1 if turns[0].role == "system" else 0
    allowed: tuple[Role, ...] = ("user",)
    for number, turn in enumerate(turns[start:], start):
        if turn.role not in allowed:
            expected = " or a ".join(allowed)
            complaints.add(f"message {number} is of the {turn.role}; expected one of the {expected} there")
            return
        allowed = _NEXT[turn.role]
    if len(turns) == start or turns[-1].role != "assistant":
        complaints.add("the last message is not of the assistant: there is no answer to learn")


_NEXT: dict[Role, tuple[Role, ...]] = {
    "user": ("assistant",),
    "tool": ("assistant", "tool"),
    "assistant": ("user", "tool"),
}


def check_contents(turns: list[Turn], complaints: Complaints) -> None:
    """Demand a text in every answer, something in every user's message, and media only where users and tools speak."""
    for number, turn in enumerate(turns):
        is_blank = not any(text and not text.isspace() for text in turn.texts)
        if is_blank and turn.role == "assistant":
            complaints.add(f"message {number}: the answer is empty", kind="empty")
        elif is_blank and turn.role == "user" and not turn.media:
            complaints.add(f"message {number}: the user's message is empty", kind="empty")
        if turn.media and turn.role not in ("user", "tool"):
            marker = f"<{turn.media[0]}>"
            complaints.add(
                f"message {number}: {marker} in a message of the {turn.role}; media go to the user's",
                kind="placeholder",
            )


def media_in_order(
    turns: list[Turn], paths: dict[MediaKind, tuple[str, ...]], complaints: Complaints
) -> tuple[Medium, ...]:
    """Give the media in the order of their markers; complain where markers and paths differ in number."""
    kinds = [kind for turn in turns for kind in turn.media]
    fits = True
    for kind, written in paths.items():
        markers = kinds.count(kind)
        if markers != len(written):
            counted = f"{markers} <{kind}> marker(s) in the text, {len(written)} {kind}(s) in the record"
            complaints.add(f"{counted}; each {kind} needs one")
            fits = False
    if not fits:
        return ()
    left = {kind: iter(written) for kind, written in paths.items()}
    return tuple(Medium(kind=kind, written=next(left[kind])) for kind in kinds)


def text_of(turn: Turn) -> str:
    """Give the text of a turn with markers where its media are."""
    pieces = [turn.texts[0]]
    for kind, text in zip(turn.media, turn.texts[1:], strict=True):
        pieces += (f"<{kind}>", text)
    return "".join(pieces)


def turn_of(role: Role, text: str) -> Turn:
    """Give the turn of a text with markers: what `text_of` undoes."""
    pieces = _MARKER.split(text)
    return Turn(role=role, texts=tuple(pieces[::2]), media=tuple(_KINDS[marker] for marker in pieces[1::2]))


def _turn_of_text(raw: dict[str, Any], layout: Layout, name: str, complaints: Complaints) -> Turn | None:
    text = raw.get(layout.content)
    if isinstance(text, str):
        if raw.get("tool_calls"):
            complaints.add(f"`{name}` has `tool_calls`, which only the openai format has", format_fix("openai"))
        return turn_of(layout.roles[raw[layout.role]], text)
    fix = format_fix("openai") if isinstance(text, list) else ""
    complaints.add(f"`{name}` has `{layout.content}` of kind {kind_of(text)}, not a string", fix)
    return None


def _turn_of_parts(
    raw: dict[str, Any], layout: Layout, name: str, media: list[Medium], complaints: Complaints
) -> Turn | None:
    role = layout.roles[raw[layout.role]]
    content, calls = raw.get(layout.content), raw.get("tool_calls")
    texts, found = parse_parts(content, f"{name}.{layout.content}", bool(calls), complaints)
    if calls:
        if role != "assistant":
            complaints.add(f"`{name}` has `tool_calls`, and its role is {role}; only an assistant calls tools")
        text = tool_calls_text(calls, name, complaints)
        texts[-1] += f"\n{text}" if texts[-1] else text
    media.extend(found)
    return Turn(role=role, texts=tuple(texts), media=tuple(each.kind for each in found))


def _refuse_unlearned(raw: dict[str, Any], name: str, complaints: Complaints) -> None:
    for key, off in _UNLEARNED.items():
        value = raw.get(key)
        if isinstance(value, (bool, int, float)) and value == off:
            message = f"`{name}` has `{key}` {json.dumps(value)}: answers cannot be left out of the loss one by one"
            complaints.add(message, 'loss_on = "last_answer" under [data], or cut the record after the answer')
