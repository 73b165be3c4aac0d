"""The pictures of questions that a model answered while it trained, if the benchmark's file still has them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qvl_core.errors import DataError, InputError, NotInstalledError
from qvl_core.evaluators import benchmark_pictures
from qvl_core.input_file import open_regular_file, printable
from qvl_data.inspection.picture_room import PictureRoom
from qvl_data.inspection.report import Thumbnail

from qvl_train.report.training_answers import AnsweredQuestion

_SIDE = 112
_MOST_OF_ROW = 2
_MOST_PIXELS = 40_000_000
_MOST_TEXT = 240


def question_pictures(
    questions: Sequence[AnsweredQuestion], recipe: Mapping[str, Any], base: Path, room: PictureRoom
) -> tuple[dict[str, list[Thumbnail]], str]:
    """Give the pictures of each question by its index, and why there are none at all, as a sentence.

    `base` is what the recipe's relative paths start from. A picture that is another one now is told in its place.
    The folder of a run may name any file of this machine, and pages are passed on: what is in a file that is no
    benchmark's is in no sentence, as it would be with the reader's own message.
    """
    section = recipe.get("eval")
    data = section.get("data") if isinstance(section, Mapping) else None
    if not isinstance(data, str) or not isinstance(section, Mapping):
        return {}, ""
    compat = "pandas" if section.get("compat") == "pandas" else "none"
    try:
        if why := _not_opened(base / data):
            return {}, _sentence(data, why)
        found = benchmark_pictures(base / data, {one.index for one in questions}, compat=compat)
        return {one.index: list(_pictures(one, found.get(one.index), room)) for one in questions}, ""
    except NotInstalledError as error:
        why = str(error)
    except InputError:
        why = "it is no benchmark's file, or a damaged one"
    except ModuleNotFoundError as error:
        why = f"the package {error.name} is not installed"
    except Exception as error:  # the page is about numbers; no foreign file and no missing package shall cost it
        why = f"they were not read ({type(error).__name__})"
    return {}, _sentence(data, why)


def _not_opened(path: Path) -> str:
    """Say why the file cannot be opened, if it cannot: that is of its place, and holds nothing of the file."""
    try:
        open_regular_file(path, error_type=DataError).close()
    except InputError as error:
        return error.problems[0].message
    return ""


def _sentence(data: str, why: str) -> str:
    return f"Pictures of {printable(data)} cannot be shown: {printable(why, _MOST_TEXT)}."


def _pictures(question: AnsweredQuestion, files: Sequence[bytes] | None, room: PictureRoom) -> Iterator[Thumbnail]:
    from qvl_data.inspection.thumbnails import thumbnail
    from qvl_data.media.error import MediaError
    from qvl_data.media.images import decode_reduced

    if files is None:
        yield Thumbnail(caption="pictures", error="the benchmark's file has no such row any more")
        return
    for number, data in enumerate(files[:_MOST_OF_ROW], 1):
        name = "" if len(files) == 1 else f"picture {number} of {len(files)}"
        # Rows of earlier versions do not say which pictures they had.
        if question.images and hashlib.sha256(data).hexdigest() not in question.images:
            yield Thumbnail(caption=name, error="is another one now than the one that was asked about")
            continue
        try:
            image = decode_reduced(data, _SIDE, max_source_pixels=_MOST_PIXELS)
        except MediaError as error:
            yield Thumbnail(caption=name, error=printable(str(error), _MOST_TEXT))
            continue
        yield room.admit(thumbnail(image, name, side=_SIDE))
