"""The files under recipes/tiny: they fit each other, and no test picture was trained on."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from qvl_core.specs import load_spec, spec_differences
from qvl_data.media.images import decode_image
from qvl_data.processor import Processor, load_processor
from qvl_data.prompt import build_prompt
from qvl_eval.benchmarks.tsv import BenchmarkFile, read_benchmark

TINY = Path(__file__).resolve().parents[3] / "recipes" / "tiny"
CHECKPOINT = TINY / "checkpoint"


@pytest.fixture(scope="module")
def processor() -> Processor:
    return load_processor(CHECKPOINT, load_spec(CHECKPOINT), min_pixels=12544, max_pixels=12544)


@pytest.fixture(scope="module")
def test_file() -> BenchmarkFile:
    return read_benchmark(TINY / "digits" / "test.tsv")


def test_the_config_is_the_shipped_tiny_spec() -> None:
    assert not spec_differences(load_spec("qwen2.5-vl-tiny"), load_spec(CHECKPOINT))


def test_the_tokenizer_fills_the_vocabulary_and_has_the_ids_of_the_config() -> None:
    spec = load_spec(CHECKPOINT)
    tokenizer = json.loads((CHECKPOINT / "tokenizer.json").read_text(encoding="utf-8"))
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    assert len(tokenizer["model"]["vocab"]) + len(added) == spec.text.vocab_size == 512
    assert added["<|image_pad|>"] == spec.tokens.image
    assert added["<|video_pad|>"] == spec.tokens.video
    assert added["<|vision_start|>"] == spec.tokens.vision_start
    assert added["<|vision_end|>"] == spec.tokens.vision_end
    generation = json.loads((CHECKPOINT / "generation_config.json").read_text(encoding="utf-8"))
    assert generation["eos_token_id"] == [added["<|im_end|>"], added["<|endoftext|>"]]


def test_the_template_has_the_familys_form(processor: Processor) -> None:
    picture = Image.new("RGB", (8, 8))
    ids = build_prompt(processor, [picture], "Which digit is this?").input_ids
    with_tokens = (CHECKPOINT / "tokenizer.json").read_text(encoding="utf-8")
    names = {token["id"]: token["content"] for token in json.loads(with_tokens)["added_tokens"]}
    marks = [names[index] for index in ids.tolist() if index in names]
    turn = ["<|im_start|>", "<|im_end|>"]
    vision = ["<|vision_start|>", *["<|image_pad|>"] * 16, "<|vision_end|>"]
    assert marks == [*turn, "<|im_start|>", *vision, "<|im_end|>", "<|im_start|>"]
    text = processor.chat.decode(ids)
    assert text == "system\nYou are a helpful assistant.\nuser\nWhich digit is this?\nassistant\n"


def test_the_vision_windows_are_smaller_than_the_pictures(processor: Processor) -> None:
    vision = load_spec(CHECKPOINT).vision
    sample = build_prompt(processor, [Image.new("RGB", (8, 8))], "q")
    assert sample.grids.tolist() == [[1, 8, 8]]
    assert vision.window_size < 8 * vision.patch_size
    assert 0 < len(vision.full_attention_blocks) < vision.depth


def test_no_test_picture_was_trained_on(test_file: BenchmarkFile) -> None:
    def digest(image: Image.Image) -> str:
        return hashlib.sha256(image.tobytes()).hexdigest()

    trained = {digest(decode_image(path.read_bytes())) for path in (TINY / "digits" / "images").glob("*.png")}
    tested = {digest(decode_image(image)) for row in test_file.rows for image in row.images}
    assert len(trained) == 1438
    assert not trained & tested


def test_the_picture_for_a_question_by_hand_is_the_first_one_to_test_on(test_file: BenchmarkFile) -> None:
    assert (TINY / "digits" / "unseen.png").read_bytes() == test_file.rows[0].images[0]


def test_both_parts_have_every_digit_in_the_same_share(test_file: BenchmarkFile) -> None:
    records = json.loads((TINY / "digits" / "train.json").read_text(encoding="utf-8"))
    trained = Counter(record["conversations"][1]["value"] for record in records)
    tested = Counter(row.answer for row in test_file.rows)
    assert set(trained) == set(tested) == set("0123456789")
    for digit in trained:
        assert tested[digit] / (trained[digit] + tested[digit]) == pytest.approx(0.2, abs=0.01)


def test_questions_of_both_parts_are_worded_alike(test_file: BenchmarkFile) -> None:
    records = json.loads((TINY / "digits" / "train.json").read_text(encoding="utf-8"))
    wordings = {record["conversations"][0]["value"].removeprefix("<image>") for record in records}
    assert {row.question for row in test_file.rows} == wordings
    assert len(wordings) == 4


def test_no_file_is_large() -> None:
    assert max(path.stat().st_size for path in TINY.rglob("*") if path.is_file()) < 500_000
