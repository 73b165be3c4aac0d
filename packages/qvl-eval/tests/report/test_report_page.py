"""The page of a report: whole, closed in itself, escaped, bounded, and with the numbers of the scores."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from qvl_core.errors import OutputError
from qvl_data.inspection.markup import visible
from qvl_eval.report import write_report
from qvl_eval.report.row_verdicts import Result, judged_rows
from qvl_eval.score.judged import AnsweredRow
from report_cases import HOSTILE, PROTOCOL, RULES, Pictures, choice_rows, picture, results_of

VOID = {"meta", "input", "img", "br", "hr"}


class Page(HTMLParser):
    """Read a page as a browser without scripts does. Raises AssertionError for what is not closed, or leads outside."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.blocks: dict[str, str] = {}
        self.policy = ""
        self.feed(self.source)
        self.close()
        assert not self.open, self.open

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def count(self, tag: str, class_: str = "") -> int:
        return sum(name == tag and class_ in [*have.get("class", "").split(), ""] for name, have in self.tags)

    @property
    def index(self) -> dict[str, Any]:
        return json.loads(self.blocks["application/json"])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        have = {key: value or "" for key, value in attrs}
        assert tag not in {"iframe", "object", "embed", "link", "base", "form"}, tag
        assert not [key for key in have if key.startswith("on") or key == "style"], (tag, have)
        for key in {"src", "href", "action", "srcset", "poster"} & have.keys():
            assert have[key].startswith(("data:image/", "#")), (tag, key, have[key])
        if have.get("http-equiv") == "Content-Security-Policy":
            self.policy = have["content"]
        self.tags.append((tag, have))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            kind = self.tags[-1][1].get("type", self.open[-1])
            self.blocks[kind] = self.blocks.get(kind, "") + data
        elif not self.open or self.open[-1] != "title":
            self.texts.append(data)


def report(path: Path, results: Sequence[Result], **options: Any) -> Page:
    """Write a report and read it."""
    values = {"title": "tiny on ai2d", "protocol": PROTOCOL, **options}
    write_report(path / "report.html", results=results, **values)
    return Page(path / "report.html")


def test_charts_have_the_numbers_of_the_scores(tmp_path: Path) -> None:
    results = results_of(choice_rows(210, pictures=Pictures([]), mmmu=True), benchmark="mmmu_dev_val")
    page = report(tmp_path, results)
    for _, scores, _ in results:
        for group in (scores.headline, scores.overall, *scores.groups, *scores.split_groups):
            assert f"{group.percent:.1f} %" in page.text
            assert group.name in page.text
            if group.failed:
                assert f"{group.failed:,} ({group.failed_percent:.1f} %)" in page.text
        failed = f"{scores.headline.failed} ({scores.headline.failed_percent:.1f} %)"
        assert f"validation, n = 180; {failed} without an answer that could be read" in page.text
    widths = [have["width"] for tag, have in page.tags if tag == "rect" and have["class"] == "c0"]
    first = results[0][1]
    shown = (first.overall, *(g for g in first.groups), *(g for g in first.split_groups if g.split == "dev"))
    assert [float(width) for width in widths] == [round(group.percent, 2) for group in _in_page_order(shown)]


def _in_page_order(groups: Sequence[Any]) -> list[Any]:
    order = ["overall", "split", "subcategory", "category"]
    return sorted(groups, key=lambda group: (order.index(group.kind), group.split == "dev"))


def test_only_a_few_groups_are_drawn_of_very_many(tmp_path: Path) -> None:
    rows = [dataclasses.replace(row, category=f"c{row.index}") for row in choice_rows(300, pictures=Pictures([]))]
    page = report(tmp_path, results_of(rows))
    assert page.count("tbody") < 1200
    assert "220 more are not drawn" in page.text


def test_protocol_is_there_by_dotted_names(tmp_path: Path) -> None:
    text = report(tmp_path, results_of(choice_rows(3, pictures=Pictures([])))).text
    assert "generation.max_new_tokens 2048" in text
    assert "prompts.family custom" in text
    assert f"weights {'1f' * 32}" in text


def test_rows_that_differ_are_listed_and_counted(tmp_path: Path) -> None:
    results = results_of(choice_rows(90, pictures=Pictures([])))
    rows = list(judged_rows(results))
    differing = [row for row in rows if len({one.score for one in row.judged}) > 1]
    assert differing
    page = report(tmp_path, results)
    assert f"{len(differing)} of 90 rows are scored differently" in page.text
    links = {have["href"] for tag, have in page.tags if tag == "a"}
    assert {f"#row={row.row.index}" for row in differing} <= links


def test_one_rule_set_has_no_table_of_differences(tmp_path: Path) -> None:
    page = report(tmp_path, results_of(choice_rows(9, pictures=Pictures([])), rules=RULES[:1]))
    assert "differ" not in page.text
    assert page.count("article") == 9


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    texts = [HOSTILE, "\u202eturned\u2066 \x00\x1b[31m \ud800", "مرحبا B", "", "=1+1", "-->]]>&amp;\n\ttab"]
    rows = [
        AnsweredRow(
            index=f"{number} {text}",
            question=text,
            answer=text,
            prediction=text,
            category=text,
            subcategory=text,
            split=text,
            options={"A": text, text: "B"},
            question_type=text,
        )
        for number, text in enumerate(texts)
    ]
    protocol = {HOSTILE: {"y": [HOSTILE]}}
    page = report(tmp_path, results_of(rows, rules=(HOSTILE, "b")), title=HOSTILE, protocol=protocol)
    for text in texts:
        assert " ".join(visible(text).split()) in page.text
    assert page.count("script") == 2
    assert page.count("img") == 0
    assert "\u202e" not in page.source
    assert set(page.index["values"]["split"]) == {visible(text) for text in texts}


def test_long_texts_are_cut_where_it_can_be_seen(tmp_path: Path) -> None:
    row = AnsweredRow(index="1", question="q", answer="A", prediction="x" * 40_000, options={"A": "y" * 5000})
    page = report(tmp_path, results_of([row], rules=RULES[:1]))
    assert "36,000 more characters" in page.text
    assert "4,700 more characters" in page.text
    assert len(page.source) < 60_000


def test_policy_allows_the_pages_own_script_and_style_and_no_other(tmp_path: Path) -> None:
    page = report(tmp_path, results_of(choice_rows(2, pictures=Pictures([]))))
    rules = dict(rule.strip().split(" ", 1) for rule in page.policy.split(";"))
    assert rules.pop("script-src") == _hash(page.blocks["script"])
    assert rules.pop("style-src") == _hash(page.blocks["style"])
    assert rules == {"default-src": "'none'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'"}
    assert not re.search(r"(?:https?:)?//(?!\s)\w+\.|url\(|@import", page.blocks["style"])


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_a_picture_is_on_the_page_once_however_many_rows_show_it(tmp_path: Path) -> None:
    pictures = Pictures([picture(number) for number in range(4)])
    page = report(tmp_path, results_of(choice_rows(60, pictures=pictures)), pictures=pictures)
    assert page.count("image") == 4
    assert page.count("use") == 60
    assert pictures.asked == 4
    ids = {have["id"] for tag, have in page.tags if tag == "image"}
    assert {have["href"].removeprefix("#") for tag, have in page.tags if tag == "use"} == ids


def test_a_broken_picture_is_told_and_the_others_are_shown(tmp_path: Path) -> None:
    pictures = Pictures([b"%PDF broken", picture(1)])
    row = AnsweredRow(index="7", answer="A", prediction="A", images=tuple(pictures.files))
    page = report(tmp_path, results_of([row]), pictures=pictures)
    assert "picture 1 cannot be shown: is not a JPEG" in page.text
    assert page.count("use") == 1


def test_pictures_without_hashes_are_found_by_their_bytes(tmp_path: Path) -> None:
    data = picture(1)
    rows = [dataclasses.replace(row, images=()) for row in choice_rows(5, pictures=Pictures([]))]
    page = report(tmp_path, results_of(rows), pictures=lambda row: [data])
    assert page.count("image") == 1
    assert page.count("use") == 5


def test_size_is_bounded_by_leaving_rows_out(tmp_path: Path) -> None:
    pictures = Pictures([picture(number) for number in range(20)])
    rows = [dataclasses.replace(row, prediction="<&'" * 2000) for row in choice_rows(400, pictures=pictures)]
    page = report(tmp_path, results_of(rows), pictures=pictures, max_megabytes=2)
    assert len(page.source.encode()) <= 2_000_000
    found = re.search(r"([\d,]+) rows left out", page.text)
    assert found is not None
    assert int(found[1]) == 400 - page.count("article")
    assert "--max-megabytes 300" in page.text
    assert page.count("use") > 0


def test_size_is_bounded_by_leaving_pictures_out(tmp_path: Path) -> None:
    pictures = Pictures([picture(number) for number in range(100)])
    page = report(tmp_path, results_of(choice_rows(300, pictures=pictures)), pictures=pictures, max_megabytes=0.7)
    assert len(page.source.encode()) <= 700_000
    assert page.count("article") == 300
    shown = page.count("image")
    assert 0 < shown < 100
    assert f"{100 - shown} pictures left out" in page.text
    assert page.text.count("picture 1 left out: the page is full") == 300 - page.count("use")


def test_charts_stay_where_there_is_no_room_for_rows(tmp_path: Path) -> None:
    pictures = Pictures([picture(1)])
    page = report(tmp_path, results_of(choice_rows(30, pictures=pictures)), pictures=pictures, max_megabytes=0.01)
    assert page.count("article") == 0
    assert "30 rows left out" in page.text
    assert page.index["rows"] == []


def test_rows_to_look_at_come_before_those_that_are_right(tmp_path: Path) -> None:
    results = results_of(choice_rows(300, pictures=Pictures([])))
    page = report(tmp_path, results, max_megabytes=0.3)
    right = {row.row.index for row in judged_rows(results) if row.is_right}
    shown = [line[1] for line in page.index["rows"]]
    assert 0 < len(shown) < 300
    assert [index in right for index in shown] == sorted(index in right for index in shown)


def test_same_rows_make_the_same_page(tmp_path: Path) -> None:
    pages = []
    for number in range(2):
        pictures = Pictures([picture(number) for number in range(40)])
        folder = tmp_path / str(number)
        results = results_of(choice_rows(80, pictures=pictures))
        pages.append(report(folder, results, pictures=pictures, max_megabytes=0.6).source)
    assert pages[0] == pages[1]


def test_prompt_is_shown_where_it_is_known(tmp_path: Path) -> None:
    results = results_of(choice_rows(2, pictures=Pictures([])))
    page = report(tmp_path, results, prompts=lambda row: f"sent {row.index}\nOptions:")
    assert "Prompt as sent sent 1 Options:" in page.text


def test_says_that_there_are_no_pictures(tmp_path: Path) -> None:
    page = report(tmp_path, results_of(choice_rows(2, pictures=Pictures([]))))
    assert "Pictures are not on this page" in page.text


def test_refuses_judgements_of_different_rows(tmp_path: Path) -> None:
    some, other = results_of(choice_rows(3, pictures=Pictures([]))), results_of(choice_rows(4, pictures=Pictures([])))
    with pytest.raises(ValueError, match="not given the same rows"):
        report(tmp_path, [some[0], other[1]])
    turned = results_of(choice_rows(3, pictures=Pictures([]))[::-1])
    with pytest.raises(ValueError, match="different order"):
        report(tmp_path, [some[0], turned[1]])
    with pytest.raises(ValueError, match="one rule set at least"):
        report(tmp_path, [])


def test_replaces_its_own_page_and_no_other_file(tmp_path: Path) -> None:
    results = results_of(choice_rows(2, pictures=Pictures([])))
    report(tmp_path, results, title="first")
    assert "second" in report(tmp_path, results, title="second").text
    (tmp_path / "report.html").write_text("<!-- qvl data page -->")
    with pytest.raises(OutputError, match="not a page of `qvl eval`"):
        report(tmp_path, results)
    report(tmp_path, results, overwrite=True)
