"""Samples side by side: positions per sample, labels shifted inside each sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from data_files import save_image
from qvl_core.batch import IGNORE
from qvl_core.geometry import sample_positions
from qvl_data.batching.micro_batch import collate, next_token_labels
from qvl_data.processor import Processor
from qvl_data.prompt import build_prompt


def test_labels_belong_to_the_next_token() -> None:
    assert next_token_labels(np.array([IGNORE, IGNORE, 7, 8], np.int32)).tolist() == [IGNORE, 7, 8, IGNORE]


def test_a_batch_is_its_samples_one_after_another(processor: Processor, tmp_path: Path) -> None:
    image = save_image(tmp_path / "a.png", 100, 140)
    samples = [
        build_prompt(processor, [image], "One?", sample_id="a"),
        build_prompt(processor, [], "Two?", sample_id="b"),
        build_prompt(processor, [image, image], "Three?", sample_id="c"),
    ]
    batch = collate(samples, processor.spec)
    lengths = [len(sample.input_ids) for sample in samples]
    assert batch.sequence_lengths == tuple(lengths)
    assert batch.sample_ids == ("a", "b", "c")
    assert batch.grids.shape == (3, 3)
    assert len(batch.patches) == batch.grids.prod(axis=1).sum()
    start = 0
    for sample, length in zip(samples, lengths, strict=True):
        np.testing.assert_array_equal(batch.input_ids[start : start + length], sample.input_ids)
        expected = sample_positions(sample.input_ids, sample.grids, sample.seconds_per_grid, processor.spec)
        np.testing.assert_array_equal(batch.position_ids[:, start : start + length], expected)
        start += length


def test_text_only_batches_have_no_patches(processor: Processor) -> None:
    batch = collate([build_prompt(processor, [], "Hello")], processor.spec)
    assert batch.patches.shape == (0, 1176)
    assert batch.grids.shape == (0, 3)
