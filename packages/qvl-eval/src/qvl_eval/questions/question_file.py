"""Questions of `qvl infer`: of the command line, or one JSON object a line of a file.

A row has `prompt`, and may have `images` and `videos` (lists of paths under the media root), `system` and `id`. A row
that is none of that is a question with a problem: the others are answered all the same.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qvl_core.errors import DataError, Problem
from qvl_core.input_file import open_regular_file, printable
from qvl_core.json_file import JsonError, parse_json
from qvl_data.media.paths import MediaPathError, MediaRoot

MAX_LINE_BYTES = 16 * 1024**2
NOTHING_ASKED = "has no prompt, no image and no video"
_KEYS = ("prompt", "images", "videos", "system", "id")


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question and what of it is repeated in its answer. `where` names it; `problem` says why it cannot be asked."""

    index: int
    where: str
    shown: dict[str, Any]
    digest: str = ""
    prompt: str = ""
    system: str | None = None
    images: tuple[Path, ...] = ()
    videos: tuple[Path, ...] = ()
    problem: str = field(default="")


def questions_of(
    prompts: Sequence[str],
    images: Sequence[Path],
    videos: Sequence[Path],
    system: str | None,
    *,
    where: str = "--prompt",
) -> tuple[Question, ...]:
    """Give one question for each prompt, all about the same images and videos. `where` is where the prompts are."""
    media = {"images": [str(path) for path in images], "videos": [str(path) for path in videos]}
    return tuple(
        Question(
            index=index,
            where=where if len(prompts) == 1 else f"{where} {index + 1}",
            shown={"prompt": prompt, "images": media["images"], **({"videos": media["videos"]} if videos else {})},
            prompt=prompt,
            system=system,
            images=tuple(images),
            videos=tuple(videos),
            problem="" if prompt.strip() or images or videos else NOTHING_ASKED,
        )
        for index, prompt in enumerate(prompts)
    )


def read_questions(path: Path, media_root: Path | None = None, system: str | None = None) -> Iterator[Question]:
    """Give the questions of a JSON Lines file in its order; one line is in memory at a time.

    Media are under `media_root`, the file's own folder without one. Raises DataError if the file cannot be read.
    """
    root = MediaRoot(media_root or path.parent)
    with open_regular_file(path, error_type=DataError) as file:
        index = 0
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            if len(line) > MAX_LINE_BYTES:
                message = f"the line is longer than {MAX_LINE_BYTES:,} bytes"
                raise DataError(Problem(where=where, message=message, fix="give images as files, by their paths"))
            yield _question(line, index, where, root, system)
            index += 1


def _question(line: bytes, index: int, where: str, root: MediaRoot, system: str | None) -> Question:
    digest = hashlib.sha256(line.strip()).hexdigest()
    try:
        row = _checked(parse_json(line.removeprefix(codecs.BOM_UTF8) if index == 0 else line))
        images, videos = (tuple(root.resolve(path) for path in row.get(key, ())) for key in ("images", "videos"))
    except (JsonError, _RowError, MediaPathError) as error:
        return Question(index=index, where=where, shown={}, digest=digest, problem=printable(str(error)))
    return Question(
        index=index,
        where=where,
        shown=row,
        digest=digest,
        prompt=row.get("prompt", ""),
        system=row.get("system", system),
        images=images,
        videos=videos,
    )


def is_text(text: str) -> bool:
    """Tell whether a string is text: JSON can spell halves of surrogate pairs, which are not."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class _RowError(ValueError):
    """A row that is JSON but no question."""


def _checked(row: object) -> dict[str, Any]:
    """Give the row if it is a question. Raises _RowError."""
    if not isinstance(row, dict):
        raise _RowError(f"is {type(row).__name__}, not an object with a prompt")
    unknown = [key for key in row if key not in _KEYS]
    if unknown:
        raise _RowError(f"has unknown keys: {', '.join(map(repr, unknown[:5]))}; known are {', '.join(_KEYS)}")
    for key in ("prompt", "system"):
        if key in row and not isinstance(row[key], str):
            raise _RowError(f"{key} is {type(row[key]).__name__}, not a text")
        if not is_text(row.get(key, "")):
            raise _RowError(f"{key} holds half of a surrogate pair, which is no character")
    for key in ("images", "videos"):
        paths = row.get(key, [])
        if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
            raise _RowError(f"{key} is not a list of paths")
    if not isinstance(row.get("id", ""), str | int):
        raise _RowError("id is neither a text nor a whole number")
    if not (row.get("prompt", "").strip() or row.get("images") or row.get("videos")):
        raise _RowError(NOTHING_ASKED)
    return row
