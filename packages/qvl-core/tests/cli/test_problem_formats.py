"""The three ways in which problems are written."""

import json

import pytest
from qvl_core.cli.problem_formats import as_github, as_json, as_text, split_where
from qvl_core.errors import Problem

ERROR = Problem(where="a,b.toml:11", key="layout.tp", message="is 3:\n50% of 6", fix="tp = 2")
WARNING = Problem(where="a.toml", message="is odd", severity="warning")


@pytest.mark.parametrize(
    ("where", "parts"),
    [
        ("a.toml:11", ("a.toml", 11)),
        ("a.toml", ("a.toml", None)),
        ("dir:x/a.toml", ("dir:x/a.toml", None)),
        ("--set layout.tp", ("--set layout.tp", None)),
        ("--set launch.master=host:80", ("--set launch.master=host:80", None)),
    ],
)
def test_where_is_split_into_file_and_line(where: str, parts: tuple[str, int | None]) -> None:
    assert split_where(where) == parts


def test_text_shows_errors_before_warnings() -> None:
    assert as_text([WARNING, ERROR]).index("layout.tp") < as_text([WARNING, ERROR]).index("is odd")


def test_json_holds_every_field_and_the_counts() -> None:
    found = json.loads(as_json([ERROR, WARNING], ["a,b.toml", "a.toml"]))
    assert found["problems"][0] == {
        "file": "a,b.toml",
        "line": 11,
        "key": "layout.tp",
        "message": "is 3:\n50% of 6",
        "fix": "tp = 2",
        "severity": "error",
    }
    assert found["problems"][1]["line"] is None
    assert found["summary"] == {"files": ["a,b.toml", "a.toml"], "errors": 1, "warnings": 1}


def test_github_annotations_are_one_line_each_and_escaped() -> None:
    first, second = as_github([ERROR, WARNING]).split("\n")
    assert first == ("::error file=a%2Cb.toml,line=11,title=layout.tp::is 3:%0A50%25 of 6%0Afix: tp = 2")
    assert second == "::warning file=a.toml,title=recipe::is odd"
