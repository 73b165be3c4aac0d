"""What a training run exports: HF transformers opens it and gives the logits of our model."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from qvl_core.model import Qwen25VL
from qvl_core.recipe import load_recipe
from qvl_core.tasks import RunOptions
from qvl_data import build_prompt, collate, load_processor
from qvl_train import task
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "recipes" / "tiny" / "digits" / "images" / "0000.png"


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    settings = ["train.steps=3", f"output.dir={folder}/out", f"data.cache_dir={folder}/cache"]
    previous = Path.cwd()
    try:
        os.chdir(ROOT)
        assert task.run(load_recipe("recipes/tiny_sft.toml", settings), RunOptions()) == 0
    finally:
        os.chdir(previous)
    return folder / "out" / "hf"


def test_transformers_opens_the_export_and_gives_the_same_logits(export: Path) -> None:
    theirs = Qwen2_5_VLForConditionalGeneration.from_pretrained(export, attn_implementation="eager").eval()
    assert theirs.dtype == torch.float32
    ours = Qwen25VL.from_pretrained(export)
    processor = load_processor(export, ours.spec, min_pixels=12544, max_pixels=12544)
    batch = collate([build_prompt(processor, [IMAGE], "Which digit is this?")], ours.spec)
    ids = batch.input_ids[None].astype(np.int64)
    grids, patches = batch.grids.astype(np.int64), batch.patches
    with torch.no_grad():
        expected = theirs(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.ones(ids.shape, dtype=torch.long),
            pixel_values=torch.from_numpy(patches),
            image_grid_thw=torch.from_numpy(grids),
            mm_token_type_ids=torch.from_numpy((ids == ours.spec.tokens.image).astype(np.int32)),
        ).logits.numpy()
    logits = ours(ids, pixel_values=patches, image_grid_thw=grids).asnumpy()
    # fp32 on both sides, sums in another order: 1e-4 of logits of order 1, as in test_model.py.
    assert np.abs(logits - expected).max() <= 1e-4


def test_the_exported_tokenizer_opens_and_round_trips(export: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(export)
    text = "Which digit is this?"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.chat_template
