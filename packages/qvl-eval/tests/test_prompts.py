"""The two prompt families, to the byte: upstream's own prompts as sample vectors, and cases beyond them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from qvl_eval.cell_types import is_missing, shown_column
from qvl_eval.prompts import (
    CHOOSE,
    CHOOSE_CHINESE,
    Asked,
    Picture,
    PromptError,
    PromptFamily,
    PromptKind,
    PromptPart,
    prompt_parts,
)

VECTORS = [
    json.loads(line)
    for line in (Path(__file__).parent / "vectors" / "prompts_and_cells.jsonl").read_text("utf-8").splitlines()
]
KINDS: dict[str, PromptKind] = {
    "AI2D_TEST": "choice",
    "MMMU_DEV_VAL": "interleaved choice",
    "ChartQA_TEST": "short answer",
    "DocVQA_VAL": "short answer",
}
ONE, TWO = Picture(0), Picture(1)


@pytest.mark.parametrize("vector", [one for one in VECTORS if one["metric"].startswith("prompt.")])
def test_gives_upstreams_prompts(vector: dict[str, Any]) -> None:
    row, images = vector["row"], vector["images"]
    asked = Asked(
        question=row["question"],
        options={name: text for name, text in sorted(row.items()) if len(name) == 1 and text is not None},
        hint=row.get("hint") or "",
        pictures=len(images),
    )
    family: PromptFamily = "custom" if vector["metric"] == "prompt.qwen_custom" else "default"
    parts = prompt_parts(KINDS[vector["dataset"]], family, asked)
    assert [
        {"type": "text", "value": part} if isinstance(part, str) else {"type": "image", "value": images[part.number]}
        for part in parts
    ] == vector["expected"]


@pytest.mark.parametrize("vector", [one for one in VECTORS if one["metric"].startswith("tsv.")])
def test_reads_cells_as_pandas_does(vector: dict[str, Any]) -> None:
    cells = vector["prediction"] if isinstance(vector["prediction"], list) else [vector["prediction"]]
    expected = vector["expected"] if isinstance(vector["expected"], list) else [vector["expected"]]
    found = shown_column(cells, "pandas")
    assert [None if is_missing(cell, "pandas") else text for cell, text in zip(cells, found, strict=True)] == expected


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (("1", "2", ""), ["1.0", "2.0", ""]),
        (("007", "+5"), ["7", "5"]),
        (("0.50", "2"), ["0.5", "2.0"]),
        (("1e3", ".5"), ["1000.0", "0.5"]),
        (("1", "x"), ["1", "x"]),
        (("true", "FALSE"), ["True", "False"]),
        (("true", "yes"), ["true", "yes"]),
        (("none", "NONE", "-", " "), ["none", "NONE", "-", " "]),
        (("99999999999999999999", "1"), ["99999999999999999999", "1"]),
        (("1_000", "2"), ["1_000", "2"]),
        (("NA", "NA"), ["", ""]),
    ],
)
def test_a_column_counts_as_pandas_counts_it(cells: tuple[str, ...], expected: list[str]) -> None:
    assert shown_column(cells, "pandas") == expected
    assert shown_column(cells, "none") == list(cells)


def text_of(parts: tuple[PromptPart, ...]) -> str:
    return "".join(part if isinstance(part, str) else f"[{part.number}]" for part in parts)


@pytest.mark.parametrize(
    ("kind", "family", "expected"),
    [
        ("choice", "custom", f"[0]Hint: h\nQuestion: q \nOptions:\nA. a\nC. c\n{CHOOSE}"),
        ("choice", "default", f"[0]Hint: h\nQuestion: q \nOptions:\nA. a\nC. c\n{CHOOSE} \n"),
        ("interleaved choice", "custom", f"[0]Hint: h\nQuestion: q \nOptions:\nA. a\nC. c\n{CHOOSE}"),
        ("interleaved choice", "default", f"[0]Hint: h\nQuestion: q \nOptions:\nA. a\nC. c\n{CHOOSE} \n"),
    ],
)
def test_hint_question_and_options(kind: PromptKind, family: PromptFamily, expected: str) -> None:
    asked = Asked(question="q ", options={"A": "a", "C": "c"}, hint="h")
    assert text_of(prompt_parts(kind, family, asked)) == expected


@pytest.mark.parametrize(
    ("family", "expected"), [("custom", "[0]Question: how many?"), ("default", "[0]Question: how many? \n")]
)
@pytest.mark.parametrize("kind", ["choice", "interleaved choice"])
def test_an_open_question_has_no_closing_sentence(kind: PromptKind, family: PromptFamily, expected: str) -> None:
    assert text_of(prompt_parts(kind, family, Asked(question="how many? "))) == expected


@pytest.mark.parametrize(
    ("asked", "is_chinese"),
    [
        (Asked(question="哪一个?", options={"A": "a"}), True),
        (Asked(question="which?", options={"A": "根"}), True),
        (Asked(question="which?", options={"A": "a"}, hint="一"), True),
        (Asked(question="which 。、カ?", options={"A": "é"}), False),
        (Asked(question="\u4dff\ua000", options={"A": "a"}), False),
        (Asked(question="\u9fff", options={"A": "a"}), True),
    ],
)
def test_an_ideograph_anywhere_asks_in_chinese_but_only_in_ai2ds_custom_prompts(asked: Asked, is_chinese: bool) -> None:
    assert text_of(prompt_parts("choice", "custom", asked)).endswith(CHOOSE_CHINESE if is_chinese else CHOOSE)
    assert text_of(prompt_parts("choice", "default", asked)).endswith(f"{CHOOSE} \n")
    assert text_of(prompt_parts("interleaved choice", "custom", asked)).endswith(CHOOSE)


def test_short_answers_keep_the_question_as_it_is() -> None:
    asked = Asked(question=" what is it? \n")
    assert text_of(prompt_parts("short answer", "default", asked)).startswith("[0] what is it? \n\nAnswer the question")
    assert prompt_parts("plain", "custom", asked) == (ONE, asked.question)


def test_markers_place_pictures_in_questions_and_options_once_or_twice() -> None:
    asked = Asked(question="<image 1><image 2>?", options={"A": "<image 2>", "B": "b"}, pictures=2)
    parts = prompt_parts("interleaved choice", "default", asked)
    assert parts == ("Question: ", ONE, "", TWO, "?\nOptions:\nA. ", TWO, f"\nB. b\n{CHOOSE} \n")
    assert text_of(prompt_parts("interleaved choice", "custom", asked)).startswith("[0][1]Question: <image 1><image 2>")


def test_without_markers_all_pictures_come_first_and_an_unnamed_one_is_not_shown() -> None:
    assert prompt_parts("interleaved choice", "default", Asked(question="q", pictures=2)) == (ONE, TWO, "Question: q\n")
    found = prompt_parts("interleaved choice", "default", Asked(question="<image 2>", pictures=2))
    assert [part for part in found if isinstance(part, Picture)] == [TWO]


@pytest.mark.parametrize("marker", ["<image 3>", "<image 0>", "<image 12>", "<image x>", "<image ", "<image 1 >"])
def test_a_marker_without_its_picture_is_refused(marker: str) -> None:
    with pytest.raises(PromptError):
        prompt_parts("interleaved choice", "default", Asked(question=f"see {marker}", pictures=2))
