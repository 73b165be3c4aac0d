"""Records as users write them, to one checked form.

Formats: `llava` (`conversations` with from/value, `image`, `video`), `sharegpt` (`messages` with role/content,
`images`, `videos`) and `openai` (`messages` whose content is a text or a list of parts). `layouts.FORMATS` is the table
of them; the recipe's tags rename columns and roles.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvl_core.errors import DataError, Problem
from qvl_core.json_file import JsonError

from qvl_data.records.complaints import Complaints, excerpt, format_fix, kind_of, names_of
from qvl_data.records.element import Element, Unread
from qvl_data.records.layouts import FORMATS, Layout, tagged
from qvl_data.records.messages import check_contents, check_order, media_in_order, parse_turns
from qvl_data.records.objects import parse_objects
from qvl_data.records.problem_list import Finding
from qvl_data.records.record import Medium, Record, Turn
from qvl_data.records.strict_json import parse_record

if TYPE_CHECKING:
    from qvl_core.recipe.sections.data_sources import TagSection

_FILES_FIX = "write the images as files under media_root, and their paths into the column"
_TOOLS_FIX = "write the tools into a system prompt, the way the model's chat template lists them"
# Media columns that a format does not have, and what it is called there.
_MISTAKEN = {"image": "images", "images": "image", "video": "videos", "videos": "video"}


def layout_of(format_name: str, tags: TagSection | None = None, *, path: Path) -> Layout:
    """Give where the records of a file keep things. Raises DataError for an unknown format."""
    layout = FORMATS.get(format_name)
    if layout is None:
        known = ", ".join(sorted(FORMATS))
        message = f"unknown format {format_name!r}; known: {known}"
        raise DataError(Problem(where=str(path), key="data.sources.format", message=message))
    return layout if tags is None else tagged(layout, tags)


def parse_element(
    element: Element, *, path: Path, format_name: str, tags: TagSection | None = None
) -> Record | tuple[Problem, ...]:
    """Give the checked record of one element, or everything that is wrong with it."""
    found = judge_element(element, path=path, format_name=format_name, tags=tags)
    return found if isinstance(found, Record) else tuple(finding.problem for finding in found)


def judge_element(
    element: Element, *, path: Path, format_name: str, tags: TagSection | None = None
) -> Record | tuple[Finding, ...]:
    """Give the checked record of one element, or everything that is wrong with it and of what kind it is."""
    layout = layout_of(format_name, tags, path=path)
    where = element.where(path)
    complaints = Complaints()
    if element.error:
        complaints.add(element.error, element.fix)
    else:
        record = _parse_record(element.value, layout, where, complaints)
        if record is not None and not complaints:
            return record
    return complaints.findings(where, f"record {element.index}")


def _parse_record(value: Any, layout: Layout, where: str, complaints: Complaints) -> Record | None:
    if not isinstance(value, dict):
        complaints.add(f"is {kind_of(value)}, not an object")
        return None
    raw_turns = _raw_turns(value, layout, complaints)
    if raw_turns is None:
        return None
    _refuse_unread_columns(value, layout, complaints)
    images = _paths(value, layout.images, complaints)
    videos = _paths(value, layout.videos, complaints)
    turns, inside = parse_turns(raw_turns, layout, complaints)
    if complaints:
        return None
    _add_system(value, layout, turns, complaints)
    with complaints.about("role"):
        check_order(turns, complaints)
    check_contents(turns, complaints)
    if layout.has_parts:
        media: tuple[Medium, ...] = tuple(inside)
    else:
        with complaints.about("placeholder"):
            media = media_in_order(turns, {"image": images, "video": videos}, complaints)
    with complaints.about("region"):
        turns, regions, frame = parse_objects(value.get(layout.objects), turns, complaints)
    return Record(where=where, turns=tuple(turns), media=media, regions=regions, frame=frame)


def _raw_turns(value: dict[str, Any], layout: Layout, complaints: Complaints) -> list[Any] | None:
    found = value.get(layout.turns)
    if isinstance(found, str) and found.lstrip().startswith("["):
        # A Parquet column of JSON texts; no other string is of use here.
        try:
            found = parse_record(found.encode("utf-8", "surrogatepass"))
        except JsonError as error:
            complaints.add(f"`{layout.turns}` is a string that is no JSON list: {error}")
            return None
    if isinstance(found, list) and found:
        return found
    absent = "is null" if layout.turns in value else "is missing"
    state = absent if found is None else "is empty" if found == [] else f"is {kind_of(found)}"
    others = [name for name, other in FORMATS.items() if other.turns != layout.turns and other.turns in value]
    fix = format_fix(others[0]) if others and found is None else ""
    complaints.add(f"`{layout.turns}` {state}; it holds the list of messages. Keys found: {names_of(value)}", fix)
    return None


def _refuse_unread_columns(value: dict[str, Any], layout: Layout, complaints: Complaints) -> None:
    """Refuse columns that change what the record means and that would be left out in silence."""
    read = (layout.images, layout.videos)
    for name, other in _MISTAKEN.items():
        if value.get(name) and name not in read and layout.has_parts:
            complaints.add(f"has `{name}`; the openai format has media as parts of a message's content")
        elif value.get(name) and name not in read and other in read and not value.get(other):
            complaints.add(f"has `{name}`; the column read here is `{other}`")
    if value.get("audios") or value.get("audio"):
        complaints.add("has audio, which Qwen2.5-VL cannot hear")
    tools = value.get("tools")
    if tools and not (isinstance(tools, str) and tools.strip() in ("", "[]")):
        complaints.add("has `tools`, which are not written into the prompt", _TOOLS_FIX)
    system = value.get("system")
    if layout.system is None and isinstance(system, str) and system.strip():
        complaints.add("has a column `system`, which is read only where it is named", 'tags = { system = "system" }')


def _add_system(value: dict[str, Any], layout: Layout, turns: list[Turn], complaints: Complaints) -> None:
    """Put the system prompt of the record's column before messages that have none."""
    found = value.get(layout.system) if layout.system is not None else None
    if found is not None and not isinstance(found, str):
        complaints.add(f"`{layout.system}` is {kind_of(found)}, not a string")
    elif found and turns[0].role != "system":
        turns.insert(0, Turn(role="system", texts=(found,)))


def _paths(value: dict[str, Any], key: str | None, complaints: Complaints) -> tuple[str, ...]:
    raw = value.get(key) if key is not None else None
    if raw is None or raw == "" or raw == []:
        return ()
    paths = [raw] if isinstance(raw, str) else raw
    if isinstance(paths, list) and all(isinstance(path, str) and path for path in paths):
        return tuple(paths)
    holds_bytes = isinstance(raw, Unread) or (isinstance(raw, dict) and "bytes" in raw)
    shown = repr(raw)[:80] if isinstance(raw, list) else excerpt(raw)
    complaints.add(f"`{key}` is {shown}; expected a path or a list of paths", _FILES_FIX if holds_bytes else "")
    return ()
