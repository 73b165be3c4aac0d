"""The text of a check fits 80 columns, needs no colours, and ends with the verdict."""

from __future__ import annotations

import io

from example_reports import HOSTILE, bad_report, clean_report
from qvl_data.inspection.report import CheckReport
from qvl_data.inspection.report_text import print_report
from rich.console import Console


def _text(report: CheckReport, *, width: int = 80, encoding: str = "utf-8", shown: int = 5) -> str:
    target = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=target, width=width, highlight=False, emoji=False, markup=False)
    print_report(console, report, max_problems=shown)
    target.flush()
    assert isinstance(target.buffer, io.BytesIO)
    return target.buffer.getvalue().decode(encoding)


def test_fits_eighty_columns_without_colours() -> None:
    for report in (clean_report(), bad_report("data/a file of records.json")):
        text = _text(report)
        assert max(map(len, text.splitlines())) <= 80
        assert "\x1b" not in text


def test_needs_no_unicode() -> None:
    text = _text(bad_report("data.json"), encoding="ascii")
    assert "####" in text


def test_says_what_was_found() -> None:
    text = " ".join(_text(bad_report("data.json"), width=200).split())
    assert "length" in text
    assert "text 63.8 %, image 31.9 %, video 4.3 %" in text
    assert "packs 700 an epoch, 98.4 % full" in text
    assert "steps 87.5 an epoch, of 8 packs each" in text
    assert "run 90 steps = 1.03 epochs" in text
    assert "23 problem Missing media" in text
    assert "... and 18 more" in text
    assert text.endswith("data.json: 23 problems, 8 warnings (2,030 records, image headers only, 12.3 s)")


def test_clean_report_says_so() -> None:
    text = " ".join(_text(clean_report(), width=200).split())
    assert "Found" not in text
    assert "run 3 epochs, about 23 steps" in text
    assert text.endswith("recipes/my.toml: clean (1,000 records, image headers only, 12.3 s)")


def test_shows_no_examples_when_told() -> None:
    assert "fix:" not in _text(bad_report("data.json"), shown=0)


def test_control_characters_of_a_record_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in _text(bad_report(HOSTILE))
