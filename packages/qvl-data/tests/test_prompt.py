"""A question for inference has the tokens of a training sample up to its answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_files import save_image
from PIL import Image
from qvl_core.batch import IGNORE
from qvl_core.errors import DataError
from qvl_data.media.checker import MediaChecker
from qvl_data.processor import Processor
from qvl_data.prompt import build_prompt
from qvl_data.records.record import Medium, Record, Turn
from qvl_data.samples import PlannedSample, build_sample


def test_equals_the_start_of_the_training_sample(processor: Processor, tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.png", 100, 140)
    turns = (Turn(role="user", texts=("", "What?"), media=("image",)), Turn(role="assistant", texts=("A cat",)))
    media = (MediaChecker(decode=True, video_timeout_s=30).check("image", "a.png", path),)
    planned = PlannedSample(
        record=Record(where="d.json:2", turns=turns, media=(Medium(kind="image", written="a.png"),)),
        media=media,
        tokens=0,
        text_tokens=0,
    )
    trained = build_sample(planned, processor, loss_on="answers")
    asked = build_prompt(processor, [path], "What?")
    answer = int(np.flatnonzero(trained.labels != IGNORE)[0])
    np.testing.assert_array_equal(asked.input_ids, trained.input_ids[:answer])
    np.testing.assert_array_equal(asked.patches, trained.patches)
    np.testing.assert_array_equal(asked.grids, trained.grids)
    assert (asked.labels == IGNORE).all()


def test_takes_files_bytes_and_pillow_images(processor: Processor, tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.png")
    found = [build_prompt(processor, [source], "?").patches for source in (path, path.read_bytes(), Image.open(path))]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_a_system_prompt_replaces_the_template_s(processor: Processor) -> None:
    plain = processor.chat.decode(build_prompt(processor, [], "Hi").input_ids)
    own = processor.chat.decode(build_prompt(processor, [], "Hi", "Be brief.").input_ids)
    assert "You are helpful." in plain
    assert "You are helpful." not in own
    assert "Be brief." in own


@pytest.mark.parametrize(
    ("images", "text", "message"),
    [([], " ", "empty"), ([Path("none.png")], "x", "none.png: there is no such file"), ([b"x"], "x", "is not a JPEG")],
)
def test_refuses_empty_prompts_and_broken_images(
    processor: Processor, images: list[Path | bytes], text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        build_prompt(processor, images, text)


def test_an_image_alone_is_a_prompt(processor: Processor) -> None:
    assert build_prompt(processor, [Image.new("RGB", (60, 60))], "").grids.tolist() == [[1, 4, 4]]
