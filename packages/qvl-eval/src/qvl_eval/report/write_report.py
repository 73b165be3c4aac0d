"""Write the page of an evaluation: everything in one file, of a size that does not grow beyond what was asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from qvl_data.inspection.markup import Html, element
from qvl_data.inspection.page import page
from qvl_data.inspection.page_file import require_page_place, write_page
from qvl_data.inspection.phrases import counted

from qvl_eval.report.differences import differences_card, rules_card
from qvl_eval.report.picture_store import MOST_PER_ROW, Pictures, PictureStore, store_pictures
from qvl_eval.report.protocol_card import protocol_card
from qvl_eval.report.row_browser import HOLE, rows_card, stored_rows
from qvl_eval.report.row_card import CardText, card_text
from qvl_eval.report.row_index import index_bytes, row_index
from qvl_eval.report.row_verdicts import JudgedRow, Result, judged_rows, looked_at_first
from qvl_eval.report.score_charts import headline_tiles, score_cards
from qvl_eval.score.judged import AnsweredRow

# What `qvl eval report` writes; it replaces no other page than its own.
MAKER = "qvl eval"
DEFAULT_MEGABYTES = 32
# At least so much of what charts and tables leave is for pictures.
_FOR_PICTURES = 0.25
# The elements around a card's texts, and those that show one picture.
_AROUND_A_CARD, _AROUND_A_PICTURE = 100, 140
_MORE = "qvl eval report FOLDER --max-megabytes 300"


def write_report(
    path: Path,
    *,
    title: str,
    protocol: Mapping[str, Any],
    results: Sequence[Result],
    pictures: Pictures | None = None,
    prompts: Callable[[AnsweredRow], str | None] | None = None,
    max_megabytes: float = DEFAULT_MEGABYTES,
    more: str = _MORE,
    overwrite: bool = False,
) -> None:
    """Write the report of one benchmark's answers, judged by one or more rule sets over the same rows.

    `results` are (rule set, its scores, its judgements), the first one leading. `pictures` gives the bytes of a row's
    image files, `prompts` what the model was sent. Pictures of rows that some rule set does not call right come first;
    what finds no room in `max_megabytes` is counted on the page, which names `more` as the way to have it.
    Raises OutputError for a place that holds something else, ValueError for judgements of different rows.
    """
    require_page_place(path, overwrite=overwrite, maker=MAKER)
    parts = report_page(title, protocol, results, pictures, prompts, max_bytes=int(max_megabytes * 1e6), more=more)
    write_page(path, b"".join(parts), overwrite=overwrite, maker=MAKER)


def report_page(
    title: str,
    protocol: Mapping[str, Any],
    results: Sequence[Result],
    pictures: Pictures | None,
    prompts: Callable[[AnsweredRow], str | None] | None,
    *,
    max_bytes: int,
    more: str = _MORE,
) -> Iterator[bytes]:
    """Give the page, part by part. Every text of a file in it is escaped and cut where it is long."""
    rows = list(judged_rows(results))
    names = [rules for rules, _, _ in results]
    parts = [
        *score_cards(results),
        differences_card(rows, names),
        rules_card(rows, names),
        protocol_card(protocol),
    ]
    top = [
        element("a", "To the rows", href="#rows", class_="skip"),
        element("h1", title),
        element("p", f"{results[0][1].benchmark} · {counted(len(rows), 'row')}", class_="soft"),
        headline_tiles(results),
        _contents(part for part in parts if part is not None),
        *parts,
    ]
    code, css = (_own_file(name) for name in ("report.js", "report.css"))
    room = max_bytes - sum(len(part.encode()) for part in top if part) - len(code) - len(css)
    chosen, texts = _fitting(looked_at_first(rows), prompts, int(room * (1 - _FOR_PICTURES if pictures else 1)))
    room -= sum(_cost(row, text) for row, text in zip(chosen, texts, strict=True))
    store = _pictures(chosen, pictures, room)
    note = _left_out(len(rows) - len(chosen), store.left_out, pictures is None, more)
    body = rows_card(row_index(chosen, names), note)
    before, after = page(title, *top, body, _foot(), css=css, code=code, maker=MAKER).split(HOLE)
    cards = (text.with_pictures(store.pictures(row.position)) for row, text in zip(chosen, texts, strict=True))
    yield before.encode()
    for part in stored_rows(cards, store.drawings):
        yield part.encode()
    yield after.encode()


def _contents(cards: Iterable[Html]) -> Html:
    """Give links to the cards, named by their own headings."""
    found = [re.search(r'<section class="card" id="([a-z]+)">\s*<h2>(.*?)</h2>', part) for part in cards]
    links = [(match[1], Html(match[2])) for match in found if match]
    items = [element("a", name, href=f"#{place}") for place, name in (*links, ("rows", "Rows"))]
    return element("nav", *items, class_="contents", aria_label="Contents")


def _fitting(
    rows: Sequence[JudgedRow], prompts: Callable[[AnsweredRow], str | None] | None, room: int
) -> tuple[list[JudgedRow], list[CardText]]:
    """Give the rows whose cards fit into so many bytes, as long as they do."""
    texts: list[CardText] = []
    for row in rows:
        text = card_text(row, prompts(row.row) if prompts is not None else None)
        room -= _cost(row, text)
        if room < 0:
            break
        texts.append(text)
    return list(rows[: len(texts)]), texts


def _cost(row: JudgedRow, text: CardText) -> int:
    pictures = min(max(1, len(row.row.images)), MOST_PER_ROW)
    return text.bytes + index_bytes(row) + _AROUND_A_CARD + pictures * _AROUND_A_PICTURE


def _pictures(rows: Sequence[JudgedRow], pictures: Pictures | None, room: int) -> PictureStore:
    if pictures is None:
        return PictureStore(side=0)
    looked_at = [row.row for row in rows if not row.is_right]
    wanted = len({key for row in looked_at for key in row.images}) + sum(not row.images for row in looked_at)
    return store_pictures(((row.position, row.row) for row in rows), pictures, wanted=wanted, budget=room)


def _left_out(rows: int, pictures: int, has_no_pictures: bool, more: str) -> str:
    left = " and ".join(counted(number, name) for number, name in ((rows, "row"), (pictures, "picture")) if number)
    said = [f"{left} left out to keep the page small; all of them: {more}."] if left else []
    if has_no_pictures:
        said.append("Pictures are not on this page: it was written without the benchmark's file.")
    return " ".join(said)


def _foot() -> Html:
    return element(
        "footer",
        "Scores are in percent. Unread: extraction failed, the rule set found no letter, number or text in the answer. "
        "Such a row counts as 0; “without unread” leaves it out. Pictures are shrunk; long texts are cut where "
        "it says so, and whole in predictions.jsonl.",
    )


def _own_file(name: str) -> str:
    return files("qvl_eval.report").joinpath(name).read_text(encoding="utf-8")
