"""The page of a check: whole, closed in itself, escaped, and with the numbers of the JSON."""

from __future__ import annotations

import re

from example_reports import HOSTILE, bad_report, clean_report
from page_reader import PageReader
from qvl_data.inspection.check_page import check_page
from qvl_data.inspection.markup import visible
from qvl_data.inspection.report import CheckReport
from qvl_data.inspection.report_json import report_values


def _numbers(text: str) -> set[str]:
    return {number.replace(",", "") for number in re.findall(r"\d[\d,]*(?:\.\d+)?", text)}


def _assert_numbers(report: CheckReport, reader: PageReader) -> None:
    values, shown = report_values(report), _numbers(reader.text)
    assert {str(values["tokens"][name]) for name in ("text", "image", "video")} <= shown
    assert {str(values["epoch"][name]) for name in ("samples", "tokens", "items_per_step")} <= shown
    assert {f"{values['epoch']['steps_per_epoch']:.1f}".removesuffix(".0")} <= shown
    lengths = dict(values["lengths"])
    assert f"{lengths.pop('mean'):.1f}" in shown
    assert {str(value) for value in lengths.values()} <= shown
    for source in values["sources"]:
        assert {str(source[name]) for name in ("records", "usable", "dropped", "shrunk", "wrong")} <= shown
    for group in values["problems"]:
        assert f"{group['title']} {group['count']}" in reader.text
    bars = [title for title in reader.titles if " tokens: " in title]
    # The drawing is there twice: for desks and for phones.
    assert sum(int(re.search(r"([\d,]+) used", bar)[1].replace(",", "")) for bar in bars) == 2 * sum(
        values["histogram"]["used"]
    )


def test_page_has_the_numbers_of_the_json() -> None:
    for report in (clean_report(), bad_report("data.json")):
        _assert_numbers(report, PageReader(check_page(report)))


def test_hostile_texts_stay_texts() -> None:
    reader = PageReader(check_page(bad_report()))
    assert visible(HOSTILE) in reader.text
    assert reader.count("img") == 3
    assert visible(f"Data check of {HOSTILE}") in reader.titles


def test_verdict_is_said() -> None:
    assert "clean" in PageReader(check_page(clean_report())).text
    assert "23 problems" in PageReader(check_page(bad_report("x"))).text
    assert "8 warnings" in PageReader(check_page(bad_report("x"))).text


def test_filter_has_a_button_and_a_rule_for_each_kind() -> None:
    text = check_page(bad_report("x"))
    reader = PageReader(text)
    names = {"k-all", "k-e-missing", "k-w-too_long", "k-w-duplicate"}
    assert {have["id"] for tag, have in reader.tags if tag == "input"} == names
    assert {have["for"] for tag, have in reader.tags if tag == "label"} == names
    for name in names - {"k-all"}:
        assert f"#{name}:checked ~ .problems .problem:not(.{name})" in text
    assert "and 3 more of this kind" in reader.text


def test_failed_recipe_has_a_page_too() -> None:
    report = CheckReport(
        recipe="x.toml", model="", sequence_length=0, too_long="", packing=False, decoded=False, seconds=0.0,
        groups=bad_report("x").groups,
    )  # fmt: skip
    assert "the recipe cannot be used" in PageReader(check_page(report)).text
