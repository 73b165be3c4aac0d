"""What an evaluation is made of: limits of pixels, notices about the file, checked pictures, keys, bad files."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from qvl_core.errors import DataError
from qvl_core.recipe import load_recipe
from qvl_core.specs import load_spec
from qvl_data.processor import load_processor
from qvl_eval.asking import messages_of, prepare_row
from qvl_eval.evaluation import answered_row, check_pictures, notices, prepare
from qvl_eval.prediction_log import Prediction
from qvl_eval.tsv_versions import VERSIONS, FileVersion

CHECKPOINT = Path(__file__).resolve().parents[3] / "recipes" / "tiny" / "checkpoint"
MMMU = (
    "index",
    "image",
    "question",
    "A",
    "B",
    "C",
    "answer",
    "split",
    "category",
    "l2-category",
    "question_type",
    "hint",
)
SETTINGS = ("eval.benchmark=mmmu_dev_val", "eval.rules=mmmu-official")
Prepare = Callable[..., Any]


@pytest.fixture
def prepared(write_recipe: Callable[..., Path], benchmark: Path) -> Prepare:
    """Give the function that prepares an evaluation of rows under MMMU's header, or of the file as it is."""

    def prepared(rows: Sequence[Sequence[str]] | None, *settings: str, header: Sequence[str] = MMMU) -> Any:
        if rows is not None:
            benchmark.write_text("".join("\t".join(row) + "\n" for row in (header, *rows)), encoding="utf-8")
        return prepare(load_recipe(write_recipe(), settings))

    return prepared


def row(index: str, cell: str, question: str = "see <image 1>", hint: str = "") -> tuple[str, ...]:
    return (index, cell, question, "a", "None", "", "A", "dev", "Science", "Math", "multiple-choice", hint)


def test_limits_of_pixels_by_name_replace_those_of_the_recipe(prepared: Prepare) -> None:
    assert prepared(None, "eval.pixels=demo").protocol.settings["image"] == {
        "min_pixels": 200704,
        "max_pixels": 1003520,
    }
    assert prepared(None).protocol.settings["image"] == {"min_pixels": 12544, "max_pixels": 12544}


def test_what_decides_answers_decides_keys_and_what_decides_scores_does_not(prepared: Prepare, picture: str) -> None:
    rows = [row("1", picture), row("2", "1", "other")]
    base = prepared(rows, *SETTINGS)
    assert len(set(base.keys.values())) == 2
    for same in ("eval.rules=mindspeed", "eval.batch=7", "eval.preflight.rows=3", "eval.held_tokens=64"):
        assert prepared(rows, *SETTINGS, same).keys == base.keys
    for other in ("eval.prompts=default", "eval.compat=pandas", "generation.max_new_tokens=9", "eval.pixels=demo"):
        assert not set(prepared(rows, *SETTINGS, other).keys.values()) & set(base.keys.values())


def test_the_whole_protocol_is_described(prepared: Prepare, picture: str) -> None:
    found = prepared([row("1", picture), row("2", "")], *SETTINGS)
    described = found.described()
    assert described["rows_without_picture"] == ["2"]
    assert described["data_version"] == "unknown"
    assert described["rules"] == ["mmmu-official"]
    first, second = notices(found)
    assert f"its md5 is {found.file.md5}" in first
    assert "1 rows have no picture and are left out: 2" in second


def test_a_row_with_its_answer_is_what_scoring_takes(prepared: Prepare, picture: str) -> None:
    found = prepared([row("1", picture)], *SETTINGS)
    prediction = Prediction(
        key="", index="1", question="", answer="", prediction="B", finish="stop", prompt_tokens=1, new_tokens=1
    )
    answered = answered_row(found.rows[0], prediction)
    assert (answered.options, answered.subcategory, answered.split) == ({"A": "a", "B": "None"}, "Math", "dev")
    assert answered.images == found.rows[0].digests
    assert answered.question_type == "multiple-choice"


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([("1", "PICTURE", "see <image 2>")], "rows?|row 1, question\n  shows <image 2> and the row has 1 picture"),
        ([("1", "PICTURE"), ("1", "PICTURE")], "the index '1' occurs twice: on line 2 too"),
        ([("1", "gone")], "has to be the index of a row with a picture; 'gone' is no row with a picture"),
        ([("1", "*" * 80)], "is not base64"),
        ([("1", "['" + "*" * 80 + "']")], "is not base64"),
        ([("1", "[" + "'x', " * 40 + "3]")], "is a list, but not of one or more texts"),
    ],
)
def test_bad_rows_are_named_with_their_line(
    prepared: Prepare, picture: str, cells: Sequence[Sequence[str]], expected: str
) -> None:
    rows = [row(*(cell.replace("PICTURE", picture) for cell in one)) for one in cells]
    with pytest.raises(DataError) as caught:
        prepared(rows, *SETTINGS, "eval.prompts=default")
    assert expected.split("|")[-1] in str(caught.value)
    assert caught.value.problems[0].where.endswith(f":{len(rows) + 1}")


def test_a_file_of_another_shape_names_the_columns_that_it_lacks(prepared: Prepare, picture: str) -> None:
    expected = "has no column answer, A, B; its first line has: index, image, question, answers"
    with pytest.raises(DataError, match=expected):
        prepared([("1", picture, "q", "x")], *SETTINGS, header=("index", "image", "question", "answers"))


def test_an_old_file_without_todays_columns_is_named_by_its_version(
    prepared: Prepare, picture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "index\timage\tquestion\tanswers\n" + f"1\t{picture}\tq\tx\n"
    old = FileVersion(name="DocVQA_VAL until X", md5=hashlib.md5(text.encode()).hexdigest(), note="another column")
    monkeypatch.setattr("qvl_eval.tsv_versions.VERSIONS", {"docvqa_val": (VERSIONS["docvqa_val"][0], old)})
    with pytest.raises(DataError, match=r"is DocVQA_VAL until X .*: another column"):
        prepared(
            [("1", picture, "q", "x")],
            *("eval.benchmark=docvqa_val", "eval.rules=mindspeed"),
            header=("index", "image", "question", "answers"),
        )


def test_pictures_are_checked_once_each_and_the_broken_one_is_named(prepared: Prepare, picture: str) -> None:
    truncated = base64.b64encode(base64.b64decode(picture)[:-30]).decode()
    found = prepared([row("1", picture), row("2", truncated), row("3", "1"), row("4", picture)], *SETTINGS)
    counted = []
    with pytest.raises(DataError, match="row 2, image") as caught:
        check_pictures(found, lambda: counted.append(1))
    assert caught.value.problems[0].where.endswith(":3")
    assert len(counted) == 2


def cell_of(mode: str) -> str:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (56, 84, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1"])
def test_pictures_of_every_colour_mode_are_asked_in_rgb_with_their_size(prepared: Prepare, mode: str) -> None:
    found = prepared([row("1", cell_of(mode))], *SETTINGS)
    processor = load_processor(CHECKPOINT, load_spec(CHECKPOINT), min_pixels=784, max_pixels=12544)
    from qvl_core.generate import GenerationOptions

    made = prepare_row(
        found.rows[0], found.parts(found.rows[0]), "key", processor, GenerationOptions(max_new_tokens=4), window=512
    )
    assert made.sizes == ((56, 84),)
    assert made.job is not None
    refused = prepare_row(found.rows[0], found.parts(found.rows[0]), "key", processor, GenerationOptions(), window=8)
    assert refused.job is None
    assert "the window holds 8" in refused.refused


def test_pictures_stand_between_texts_where_the_prompt_has_them(prepared: Prepare, picture: str) -> None:
    found = prepared([row("1", picture, "<image 1> and <image 1>", "look")], *SETTINGS, "eval.prompts=default")
    (message,) = messages_of(found.parts(found.rows[0]), found.rows[0].images)
    kinds = [part if isinstance(part, str) else "picture" for part in message.parts]
    assert kinds[:4] == ["Hint: look\nQuestion: ", "picture", " and ", "picture"]
    assert message.role == "user"
