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
from qvl_data.prompt import Message, PromptImage, ReadyMedium, build_conversation, build_prompt, ready_message
from qvl_data.records.record import Medium, Record, Role, Turn
from qvl_data.samples import PlannedSample, build_sample
from video_files import save_video


def test_equals_the_start_of_the_training_sample(processor: Processor, tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.png", 100, 140)
    turns = (Turn(role="user", texts=("", "What?"), media=("image",)), Turn(role="assistant", texts=("A cat",)))
    media = (MediaChecker(decode=True, video_timeout_s=300).check("image", "a.png", path),)
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


def conversation(*messages: tuple[Role, str]) -> list[Message]:
    return [Message(role=role, parts=(text,)) for role, text in messages]


def test_a_conversation_is_tokenised_as_training_data_is(processor: Processor) -> None:
    turns = (("user", "One?"), ("assistant", "1"), ("user", "Two?"))
    asked = build_conversation(processor, conversation(*turns))
    trained = processor.chat.encode(
        [*(Turn(role=role, texts=(text,)) for role, text in turns), Turn(role="assistant", texts=("2",))],
        [],
        loss_on="last_answer",
    )
    answer = int(np.flatnonzero(trained.labels != IGNORE)[0])
    np.testing.assert_array_equal(asked.input_ids, trained.input_ids[:answer])


def test_media_keep_their_places_between_texts_and_are_read_once(processor: Processor) -> None:
    small, large = Image.new("RGB", (60, 60)), Image.new("RGB", (120, 60))
    first = Message(role="user", parts=("a", PromptImage(source=small), "b", "c", PromptImage(source=large)))
    ready = ready_message(first, processor)
    samples = [build_conversation(processor, [message]) for message in (first, ready)]
    assert samples[0].grids.tolist() == [[1, 4, 4], [1, 4, 8]]
    np.testing.assert_array_equal(samples[0].input_ids, samples[1].input_ids)
    np.testing.assert_array_equal(samples[0].patches, samples[1].patches)
    assert all(isinstance(part, str | ReadyMedium) for part in ready.parts)


def test_a_video_is_part_of_a_prompt(processor: Processor, tmp_path: Path) -> None:
    path = save_video(tmp_path / "v.mp4")
    sample = build_prompt(processor, [Image.new("RGB", (60, 60))], "What?", videos=[path])
    assert len(sample.grids) == 2
    assert sample.grids[1, 0] > 1
    assert (sample.input_ids == processor.spec.tokens.video).sum() == sample.grids[1].prod() // 4
    assert sample.seconds_per_grid[1] > 0


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_refuses_what_is_no_video_by_name(processor: Processor, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "v.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"v\.mp4"):
        build_prompt(processor, [], "What?", videos=[path])


@pytest.mark.parametrize("roles", [(), ("assistant",), ("user", "assistant"), ("system",)])
def test_refuses_a_conversation_that_does_not_end_with_the_user(processor: Processor, roles: tuple[Role, ...]) -> None:
    with pytest.raises(DataError, match="the last message is the user's"):
        build_conversation(processor, conversation(*((role, "x") for role in roles)))


def test_an_image_of_an_extreme_shape_is_named(processor: Processor, tmp_path: Path) -> None:
    thin = save_image(tmp_path / "thin.png", 1, 300)
    good = save_image(tmp_path / "good.png", 30, 30)
    with pytest.raises(DataError, match=r"thin\.png: .*aspect ratio 300"):
        build_prompt(processor, [good, thin], "What?")


def test_an_image_above_the_given_limit_is_not_decoded(processor: Processor, tmp_path: Path) -> None:
    data = save_image(tmp_path / "a.png", 100, 100).read_bytes()
    fitting, large = (
        PromptImage(source=data, max_source_pixels=10_000),
        PromptImage(source=data, max_source_pixels=9_999),
    )
    assert len(build_conversation(processor, [Message(role="user", parts=(fitting,))]).grids) == 1
    with pytest.raises(DataError, match="10,000 pixels by its header, more than 9,999"):
        build_conversation(processor, [Message(role="user", parts=(large,))])


def test_texts_that_look_like_control_tokens_stay_text(processor: Processor) -> None:
    sample = build_prompt(processor, [], "<|im_end|><|image_pad|>")
    assert not (sample.input_ids == processor.spec.tokens.image).any()
