"""Model FLOPs against three independent counts: the shapes of a forward pass that ran, 6 N T, and the stages' work."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import prod
from typing import Any

import numpy as np
import pytest
from qvl_core.batch import IGNORE, Batch
from qvl_core.geometry import vision_plan
from qvl_core.layout import Layout
from qvl_core.model_flops import batch_flops, training_flops
from qvl_core.parallel.stage_work import MicroBatch, stage_work
from qvl_core.params import EMBEDDING, parameter_table
from qvl_core.specs.load import load_spec, shipped_names

TINY = load_spec("qwen2.5-vl-tiny")
# A square of whole windows, a strip narrower than one, a video of two slices with rests on both sides.
GRIDS = [[1, 16, 16], [1, 2, 28], [2, 18, 10]]
ALL = ("vision", "merger", "text")


def merged(grids: list[list[int]]) -> int:
    return sum(map(prod, grids)) // TINY.vision.merge_unit


def make_batch(sequences: tuple[int, ...], grids: list[list[int]], labels: int) -> Batch:
    """Make a batch whose first tokens are those of its images."""
    tokens, images = sum(sequences), merged(grids)
    ids = np.full(tokens, 5, np.int32)
    ids[:images] = TINY.tokens.image
    marks = np.full(tokens, IGNORE, np.int32)
    marks[tokens - labels :] = 7
    patches = np.zeros((sum(map(prod, grids)), TINY.vision.patch_dim), np.float32)
    return Batch(
        input_ids=ids, position_ids=np.tile(np.arange(tokens, dtype=np.int32), (3, 1)), sequence_lengths=sequences,
        labels=marks, patches=patches, grids=np.array(grids, np.int32).reshape(-1, 3),
    )  # fmt: skip


@pytest.mark.parametrize("grids", [[], GRIDS, GRIDS[1:2]])
def test_forward_equals_the_products_of_a_forward_pass_that_ran(
    grids: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mindspore", reason="runs the model")
    from qvl_core import kernels
    from qvl_core.model import Qwen25VL
    from qvl_core.model.initialize import random_weights

    counts = {"text": 0, "vision": 0}
    inside = ["text"]

    def watch(name: str, multiplications: Any) -> None:
        real = getattr(kernels, name)

        def call(*arguments: Any, **options: Any) -> Any:
            counts[inside[0]] += multiplications(*arguments)
            return real(*arguments, **options)

        monkeypatch.setattr(kernels, name, call)

    def of_attention(q: Any, k: Any, v: Any, segments: Any) -> int:
        # Scores and weighted sums of every pair inside a segment.
        return 2 * sum(length**2 for length in segments.lengths) * q.shape[1] * q.shape[2]

    watch("linear", lambda x, weight, *bias: prod(x.shape) * weight.shape[0])
    watch("patch_embed", lambda x, weight: prod(x.shape) * weight.shape[0])
    watch("attention", of_attention)
    model = Qwen25VL.from_spec(TINY, random_weights(TINY, 1))
    see = model.see

    def seeing(*arguments: Any) -> Any:
        inside[0] = "vision"
        result = see(*arguments)
        inside[0] = "text"
        return result

    monkeypatch.setattr(model, "see", seeing)
    images = merged(grids)
    batch = make_batch((images + 9, 30), grids, labels=11)
    model.token_losses(batch)
    found = batch_flops(batch, TINY, freeze=ALL)
    assert counts["text"] > 0
    assert (found.text, found.vision) == (2 * counts["text"], 2 * counts["vision"])


def test_no_vision_work_where_its_features_are_known() -> None:
    batch = make_batch((merged(GRIDS) + 9, 30), GRIDS, labels=11)
    width = TINY.vision.out_hidden_size
    known = replace(batch, patches=batch.patches[:0], features=np.zeros((merged(GRIDS), width), np.float32))
    found, usual = (batch_flops(one, TINY, freeze=("vision", "merger")) for one in (known, batch))
    assert (found.vision, found.text) == (0, usual.text)


@pytest.mark.parametrize("name", shipped_names())
def test_text_alone_is_6nt_and_attention(name: str) -> None:
    spec = load_spec(name)
    tokens = 700
    weights = sum(
        row.size
        for row in parameter_table(spec)
        if row.component == "text" and len(row.shape) == 2 and row.name != EMBEDDING
    )
    # A tied embedding is the output head; an untied one multiplies nothing.
    weights += spec.text.vocab_size * spec.text.hidden_size if spec.text.tie_word_embeddings else 0
    found = training_flops(spec, sequences=[tokens], grids=[], labels=tokens)
    # PaLM (arXiv 2204.02311), appendix B: 6 N + 12 L H Q T for each token.
    attention = 12 * spec.text.num_layers * spec.text.num_heads * spec.text.head_dim * tokens
    assert found.vision == 0
    assert found.text == tokens * (6 * weights + attention)


def test_windows_are_those_of_the_vision_plan() -> None:
    for name in shipped_names():
        vision = load_spec(name).vision
        lengths = vision_plan(GRIDS, vision).window_lengths
        frames = vision_plan(GRIDS, vision).frame_lengths
        only_windows = replace(vision, full_attention_blocks=())
        spec, windowed = load_spec(name), replace(load_spec(name), vision=only_windows)
        count = len(vision.full_attention_blocks)
        difference = sum(length**2 for length in frames) - sum(length**2 for length in lengths)
        a, b = (training_flops(one, sequences=[], grids=GRIDS, labels=0, freeze=ALL).vision for one in (spec, windowed))
        assert a - b == 4 * count * difference * vision.hidden_size


@pytest.mark.parametrize("freeze", [chosen for size in range(4) for chosen in combinations(ALL, size)])
def test_frozen_parts_follow_the_rules_of_the_stages_work(freeze: tuple[Any, ...]) -> None:
    # With one token per sequence, and counted without vision's attention, both count the same products with weights.
    tokens, labels = 500, 80
    sequences, grids = (1,) * tokens, [[1, 16, 16]]
    vision = replace(TINY.vision, full_attention_blocks=tuple(range(TINY.vision.depth)))
    spec = replace(TINY, vision=vision)
    (work,) = stage_work(
        spec, Layout.single(spec), MicroBatch(sequences=sequences, frames=(256,), labels=labels), freeze=freeze
    )
    found = training_flops(spec, sequences=sequences, grids=grids, labels=labels, freeze=freeze)
    # There a pair counts half in the text, all of it here; each of 500 sequences has one pair.
    half = tokens * spec.text.num_heads * spec.text.head_dim * spec.text.num_layers
    has_backward = freeze != ALL
    assert found.total == 2 * (work.forward + work.backward + half * (3 if has_backward else 1))


def test_an_adapted_part_passes_gradients_on_without_its_weights() -> None:
    sizes: dict[str, Any] = {"sequences": [64], "grids": [], "labels": 10}
    whole = training_flops(TINY, **sizes).text
    forward = training_flops(TINY, **sizes, freeze=ALL).text
    adapted = training_flops(TINY, **sizes, freeze=ALL, adapted=("text",)).text
    attention = 2 * 2 * 64**2 * TINY.text.num_heads * TINY.text.head_dim * TINY.text.num_layers
    assert adapted == forward + (forward - attention) + 2 * attention
    assert whole == 3 * forward


def test_without_images_nothing_before_the_text_wants_a_gradient() -> None:
    found = training_flops(TINY, sequences=[64], grids=[], labels=10, freeze=("text",))
    assert found == training_flops(TINY, sequences=[64], grids=[], labels=10, freeze=ALL)
