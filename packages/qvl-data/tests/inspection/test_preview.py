"""A preview is the sample of training, taken apart, and its page is closed in itself and bounded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_files import llava, save_image, write_records
from page_reader import PageReader
from qvl_core.batch import IGNORE
from qvl_data.batching.micro_batch import collate
from qvl_data.dataset import Dataset
from qvl_data.inspection import preview_page as page_module
from qvl_data.inspection.markup import visible
from qvl_data.inspection.preview import IMAGE_SIDE, MAX_MEDIA, Previewer, PreviewItem, PreviewSample
from qvl_data.inspection.preview_page import preview_page
from qvl_data.preparation import prepare
from video_files import save_video

HOSTILE = "</div><script>alert(1)</script>\x1b \u202e\"'&lt;"


@pytest.fixture
def dataset(make_recipe: Callable[..., Any], tmp_path: Path) -> Dataset:
    save_image(tmp_path / "a.png", 90, 60)
    save_image(tmp_path / "b.png", 200, 500)
    save_video(tmp_path / "v.mp4", frames=7, fps=2, height=64, width=96)
    boxes = {"objects": {"bbox": [[250, 100, 500, 200]], "point": [[0, 0]]}}
    records = [
        llava("<image>What?", "A cat", "a.png"),
        {**llava("<image>Where?", "<box> <point>", "b.png"), **boxes},
        {**llava("<image><video>Both?", "yes", "a.png"), "video": "v.mp4"},
        llava(HOSTILE, HOSTILE),
        llava("long", "word " * 9000),
        {**llava("<image>", "x", "b.png"), "id": 1},
    ]
    path = write_records(tmp_path / "r.json", records)
    data = prepare(make_recipe([path], sequence_length=100_000)).train
    assert isinstance(data, Dataset)
    return data


def _sample(dataset: Dataset, number: int) -> PreviewSample:
    found = Previewer(dataset).preview(number)
    assert isinstance(found, PreviewSample)
    return found


def _page(*samples: PreviewSample) -> str:
    items = [PreviewItem(position=i, samples=(sample,)) for i, sample in enumerate(samples)]
    return preview_page(items, recipe="r.toml", model="m", loss_on="answers", how="chosen")


@pytest.mark.parametrize("number", range(6))
def test_tokens_are_those_of_training(dataset: Dataset, number: int) -> None:
    shown, sample = _sample(dataset, number), dataset.sample(number)
    positions = collate([sample], dataset.processor.spec).position_ids
    assert shown.tokens == len(sample.input_ids) == dataset.lengths[number]
    assert shown.learned_tokens == (sample.labels != IGNORE).sum()
    assert shown.where == dataset.where(number)
    at = 0
    for piece in shown.pieces:
        assert piece.first == at
        assert piece.positions == tuple(positions[:, at].tolist())
        assert piece.is_learned == (sample.labels[at] != IGNORE)
        at += piece.count
    assert at == shown.tokens


def test_image_has_its_sizes_and_cells(dataset: Dataset) -> None:
    shown = _sample(dataset, 1)
    (medium,) = shown.media
    _, rows, columns = dataset.sample(1).grids[0].tolist()
    assert (medium.file_height, medium.file_width) == (200, 500)
    assert (medium.height, medium.width) == (14 * rows, 14 * columns)
    assert medium.rows * medium.columns == shown.image_tokens
    reader = PageReader(_page(shown))
    cells = [title for title in reader.titles if title.startswith("token ") and " id " not in title]
    assert len(cells) == shown.image_tokens
    time, top, left = medium.position
    last = f"t{time} h{top + medium.rows - 1} w{left + medium.columns - 1}"
    assert cells[-1] == f"token {medium.first_token + shown.image_tokens - 1} {last}"


def test_boxes_are_where_the_text_says(dataset: Dataset) -> None:
    shown = _sample(dataset, 1)
    (medium,) = shown.media
    box, point = (mark.values for mark in medium.marks)
    expected = (medium.width / 2, medium.height / 2, medium.width, medium.height)
    assert box == pytest.approx(expected)
    assert point == (0, 0)
    text = "".join(piece.text for piece in shown.pieces)
    assert f"[{round(box[0])}, {round(box[1])}, {medium.width - 1}, {medium.height - 1}]" in text
    reader = PageReader(_page(shown))
    assert reader.count("rect", class_="region") == 1
    assert reader.count("circle") == 1


def test_video_has_frames_with_their_times(dataset: Dataset) -> None:
    shown, sample = _sample(dataset, 2), dataset.sample(2)
    image, video = shown.media
    assert (image.kind, video.kind) == ("image", "video")
    assert [frame.time_s for frame in video.frames] == sample.frame_times[1].tolist()
    assert [frame.slice for frame in video.frames] == [i // 2 for i in range(len(video.frames))]
    assert len(video.times) == video.slices == sample.grids[1][0]
    reader = PageReader(_page(shown))
    assert f"{video.frames[-1].time_s:.2f} s, t {video.times[-1]}" in reader.text


def test_page_shows_every_token_once(dataset: Dataset) -> None:
    shown = _sample(dataset, 0)
    reader = PageReader(_page(shown))
    titles = [title for title in reader.titles if title.startswith("token ") and " id " in title]
    assert len(titles) == len(shown.pieces)
    learned = sum(tag == "b" and have.get("title", "").startswith("token ") for tag, have in reader.tags)
    assert learned == shown.learned_tokens
    assert f"image 1 · {shown.image_tokens}" in reader.text
    assert f"{shown.tokens} tokens ( {shown.text_tokens} text" in reader.text.replace("(", "( ")


def test_hostile_texts_stay_texts(dataset: Dataset) -> None:
    reader = PageReader(_page(_sample(dataset, 3)))
    assert visible(HOSTILE).replace(" ", "") in "".join(reader.texts).replace(" ", "")


def test_long_samples_are_bounded(dataset: Dataset) -> None:
    shown = _sample(dataset, 4)
    text = _page(shown)
    reader = PageReader(text)
    titles = [title for title in reader.titles if title.startswith("token ") and " id " in title]
    assert shown.tokens > 10_000
    assert len(titles) == page_module.MAX_TOKENS
    assert f"{len(shown.pieces) - page_module.MAX_TOKENS:,} tokens are not shown here" in reader.text
    assert titles[-1].startswith(f"token {shown.tokens - 1}")
    assert len(text) < 600_000


def test_large_pictures_are_bounded(make_recipe: Callable[..., Any], tmp_path: Path) -> None:
    save_image(tmp_path / "noise.png", 900, 1350)
    path = write_records(tmp_path / "r.json", [llava("<image>" * 20, "x", ["noise.png"] * 20)])
    image = {"min_pixels": 3136, "max_pixels": 500_000}
    data = prepare(make_recipe([path], sequence_length=100_000, image=image)).train
    assert isinstance(data, Dataset)
    shown = _sample(data, 0)
    assert (len(shown.media), shown.hidden_media) == (MAX_MEDIA, 20 - MAX_MEDIA)
    for medium in shown.media:
        (frame,) = medium.frames
        assert max(frame.width, frame.height) == IMAGE_SIDE < max(medium.width, medium.height)
        assert len(frame.uri) < 300_000
    text = _page(shown)
    assert "and 4 more images or videos" in PageReader(text).text
    assert len(text) < 6_000_000


def test_pack_shows_its_segments(dataset: Dataset) -> None:
    samples = tuple(_sample(dataset, number) for number in (0, 3))
    item = PreviewItem(position=5, samples=samples, room=500)
    text = preview_page([item], recipe="r", model="m", loss_on="all", how="x")
    reader = PageReader(text)
    used = sum(sample.tokens for sample in samples)
    assert f"Pack at position 5: 2 samples, {used} of 500 tokens, {used / 5:.1f} %" in reader.text
    assert sum(tag == "a" and "style" in have for tag, have in reader.tags) == 2


def test_sample_that_has_changed_says_so(dataset: Dataset, tmp_path: Path) -> None:
    save_image(tmp_path / "b.png", 10, 10)
    found = Previewer(dataset).preview(5)
    assert not isinstance(found, PreviewSample)
    item = PreviewItem(position=0, samples=(found,))
    reader = PageReader(preview_page([item], recipe="r", model="m", loss_on="all", how="x"))
    assert "was changed" in reader.text
