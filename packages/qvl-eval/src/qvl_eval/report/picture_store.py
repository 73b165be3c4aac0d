"""Pictures of rows as thumbnails within a budget: each picture once, however many rows show it.

A thumbnail stands on the page as an SVG image with a number; a row shows it by that number. So a page of documents has
1,286 pictures for 5,349 questions, also without a script.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from qvl_data.inspection.markup import Html, element
from qvl_data.inspection.report import Thumbnail
from qvl_data.inspection.thumbnails import thumbnail
from qvl_data.media.images import ImageError, decode_reduced

from qvl_eval.score.judged import AnsweredRow

Pictures = Callable[[AnsweredRow], Sequence[bytes]]

# Pictures of one row that are shown; MMMU has up to 7.
MOST_PER_ROW = 8
SMALLEST_SIDE, LARGEST_SIDE = 160, 480
# Bytes on the page for each pixel of a square thumbnail of that side: JPEG of quality 72 as base64, a dense drawing.
_BYTES_PER_PIXEL = 0.25
_MOST_THREADS = 4


@dataclass
class PictureStore:
    """The thumbnails made so far: their drawings on the page, and where each picture is."""

    side: int
    drawings: list[Html] = field(default_factory=list)
    bytes: int = 0
    left_out: int = 0
    shown: dict[str, Thumbnail] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    of_row: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def pictures(self, position: int) -> list[Html]:
        """Give the pictures of the row at a position: drawn, or a note why one is not there."""
        keys = self.of_row.get(position, ())
        found = [self._picture(key, number, len(keys)) for number, key in enumerate(keys[:MOST_PER_ROW], 1)]
        more = len(keys) - MOST_PER_ROW
        return [*found, element("span", f"and {more:,} more pictures", class_="gone")] if more > 0 else found

    def is_full(self, budget: int) -> bool:
        return self.left_out > 0 or self.bytes >= budget

    def _picture(self, key: str, number: int, of: int) -> Html:
        if key not in self.shown:
            return element("span", f"picture {number} left out: the page is full", class_="gone")
        made = self.shown[key]
        if made.error:
            return element("span", f"picture {number} cannot be shown: {made.error[:200]}", class_="gone")
        return element(
            "svg",
            element("use", href=f"#p{self.numbers[key]}"),
            viewBox=f"0 0 {made.width} {made.height}",
            width=made.width,
            height=made.height,
            # Several share the width of a card; the one that is clicked or tabbed to is shown at the size it has.
            tabindex=0 if of > 1 else None,
            role="img",
            aria_label=f"picture {number}",
        )

    def add(self, key: str, made: Thumbnail, budget: int) -> None:
        """Take a thumbnail in; from the first that has no room on, all are left out."""
        number = len(self.drawings)
        size = {"width": made.width, "height": made.height}
        drawing = element("image", id=f"p{number}", href=made.uri, **size) if not made.error else Html("")
        if self.left_out or self.bytes + len(drawing) > budget:
            self.left_out += 1
            return
        self.shown[key] = made if made.error else _without_data(made)
        if drawing:
            self.numbers[key] = number
            self.drawings.append(drawing)
            self.bytes += len(drawing)


def store_pictures(
    rows: Iterable[tuple[int, AnsweredRow]], pictures: Pictures, *, wanted: int, budget: int
) -> PictureStore:
    """Make thumbnails of (position, row) in this order until `budget` bytes are used; `wanted` pictures set their side.

    `pictures` is called from this thread only, once for each row that has a picture which is not made yet. What is left
    out depends on the rows alone, not on which thread was faster.
    """
    store = PictureStore(side=fitting_side(budget, wanted))
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    waiting: deque[tuple[str, Future[Thumbnail]]] = deque()
    asked: set[str] = set()
    with ThreadPoolExecutor(threads, thread_name_prefix="thumbnails") as pool:
        for position, row in rows:
            for key, data in _of_row(store, position, row, pictures, asked, budget):
                waiting.append((key, pool.submit(shrunk, data, store.side)))
            while len(waiting) > 4 * threads:
                key, future = waiting.popleft()
                store.add(key, future.result(), budget)
        for key, future in waiting:
            store.add(key, future.result(), budget)
    return store


def fitting_side(budget: int, pictures: int) -> int:
    """Give the side in pixels, a multiple of 16, at which about so many pictures fit into `budget` bytes."""
    side = math.sqrt(max(0, budget) / max(1, pictures) / _BYTES_PER_PIXEL)
    return int(min(LARGEST_SIDE, max(SMALLEST_SIDE, side // 16 * 16)))


def shrunk(data: bytes, side: int) -> Thumbnail:
    """Give the thumbnail of an image file's bytes, or its error where they are no image."""
    try:
        return thumbnail(decode_reduced(data, side), "", side=side)
    except ImageError as error:
        return Thumbnail(caption="", error=str(error))


def _of_row(
    store: PictureStore, position: int, row: AnsweredRow, pictures: Pictures, asked: set[str], budget: int
) -> Iterator[tuple[str, bytes]]:
    """Note which pictures a row has, and give those that are to be made."""
    keys = row.images
    if keys and (store.is_full(budget) or all(key in asked for key in keys)):
        store.of_row[position] = keys
        new = set(keys[:MOST_PER_ROW]) - asked
        store.left_out += len(new)
        asked |= new
        return
    found = pictures(row)
    if len(keys) != len(found):
        keys = tuple(hashlib.sha256(data).hexdigest() for data in found)
    store.of_row[position] = keys
    is_full = store.is_full(budget)
    for key, data in list(zip(keys, found, strict=True))[:MOST_PER_ROW]:
        if key in asked:
            continue
        asked.add(key)
        if is_full:
            store.left_out += 1
        else:
            yield key, data


def _without_data(made: Thumbnail) -> Thumbnail:
    return Thumbnail(caption="", width=made.width, height=made.height)
