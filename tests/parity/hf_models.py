"""Pairs of models with the same weights, ours and HF's, and inputs for both. Used by the model and generation tests.

The configurations are odd on purpose: no two agree in depth, head counts, window, merge size or attention pattern.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from hf_config import hf_config as hf_config
from hf_config import hf_name as hf_name
from numpy.typing import NDArray
from qvl_core.model import Qwen25VL
from qvl_core.params import parameter_table
from qvl_core.specs.model_spec import ModelSpec, TextSpec, TokenIds, VisionSpec
from transformers import Qwen2_5_VLForConditionalGeneration

# MindSpore's own threads need the other core.
torch.set_num_threads(1)

VOCABULARY = 320
TOKENS = TokenIds(vision_start=300, vision_end=301, image=302, video=303)
PLAIN_IDS = 300  # ids below it are ordinary text
PAD = 299


def _spec(name: str, vision: VisionSpec, text: TextSpec) -> ModelSpec:
    assert vision.out_hidden_size == text.hidden_size
    return ModelSpec(name=name, vision=vision, text=text, tokens=TOKENS)


SPECS: dict[str, ModelSpec] = {
    "tied, two full blocks": _spec(
        "a",
        VisionSpec(
            depth=4, hidden_size=64, num_heads=4, intermediate_size=128, out_hidden_size=64,
            window_size=56, full_attention_blocks=(1, 3),
        ),
        TextSpec(
            num_layers=4, hidden_size=64, intermediate_size=192, num_heads=4, num_kv_heads=2, head_dim=16,
            vocab_size=VOCABULARY, tie_word_embeddings=True, mrope_section=(2, 3, 3), rope_theta=1e4,
        ),
    ),
    "one kv head, untied, odd vision heads": _spec(
        "b",
        VisionSpec(
            depth=2, hidden_size=80, num_heads=5, intermediate_size=100, out_hidden_size=128,
            window_size=112, full_attention_blocks=(0,), tokens_per_second=4.0,
        ),
        TextSpec(
            num_layers=2, hidden_size=128, intermediate_size=160, num_heads=8, num_kv_heads=1, head_dim=16,
            vocab_size=VOCABULARY, tie_word_embeddings=False, mrope_section=(4, 2, 2),
        ),
    ),
    "no grouping, window of three units": _spec(
        "c",
        VisionSpec(
            depth=3, hidden_size=96, num_heads=6, intermediate_size=130, out_hidden_size=96,
            window_size=84, full_attention_blocks=(2,),
        ),
        TextSpec(
            num_layers=3, hidden_size=96, intermediate_size=200, num_heads=3, num_kv_heads=3, head_dim=32,
            vocab_size=VOCABULARY, tie_word_embeddings=False, mrope_section=(4, 6, 6), rms_norm_eps=1e-5,
        ),
    ),
    "merge of three, tied": _spec(
        "d",
        VisionSpec(
            depth=2, hidden_size=64, num_heads=2, intermediate_size=96, out_hidden_size=72,
            spatial_merge_size=3, window_size=84, full_attention_blocks=(1,),
        ),
        TextSpec(
            num_layers=5, hidden_size=72, intermediate_size=100, num_heads=6, num_kv_heads=2, head_dim=12,
            vocab_size=VOCABULARY, tie_word_embeddings=True, mrope_section=(1, 2, 3),
        ),
    ),
    "merge of one, no full block, small patches": _spec(
        "e",
        VisionSpec(
            depth=1, hidden_size=48, num_heads=3, intermediate_size=80, out_hidden_size=64, in_channels=1,
            patch_size=6, temporal_patch_size=1, spatial_merge_size=1, window_size=24, full_attention_blocks=(),
        ),
        TextSpec(
            num_layers=2, hidden_size=64, intermediate_size=90, num_heads=2, num_kv_heads=1, head_dim=32,
            vocab_size=VOCABULARY, tie_word_embeddings=False, mrope_section=(5, 5, 6), rope_theta=1e5,
        ),
    ),
    "only full blocks, deep text": _spec(
        "f",
        VisionSpec(
            depth=2, hidden_size=64, num_heads=8, intermediate_size=64, out_hidden_size=96,
            window_size=112, full_attention_blocks=(0, 1),
        ),
        TextSpec(
            num_layers=6, hidden_size=96, intermediate_size=128, num_heads=12, num_kv_heads=4, head_dim=8,
            vocab_size=VOCABULARY, tie_word_embeddings=True, mrope_section=(1, 1, 2),
        ),
    ),
    "five query heads a group, full block first and last": _spec(
        "g",
        VisionSpec(
            depth=5, hidden_size=64, num_heads=4, intermediate_size=90, out_hidden_size=80,
            window_size=112, full_attention_blocks=(0, 4),
        ),
        TextSpec(
            num_layers=3, hidden_size=80, intermediate_size=110, num_heads=10, num_kv_heads=2, head_dim=8,
            vocab_size=VOCABULARY, tie_word_embeddings=False, mrope_section=(2, 1, 1), rope_theta=1e4,
        ),
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The same weights in both frameworks."""

    spec: ModelSpec
    ours: Qwen25VL
    theirs: Qwen2_5_VLForConditionalGeneration


@lru_cache(maxsize=1)
def pair(name: str) -> Pair:
    """Give the two models of a configuration, the last one kept."""
    spec = SPECS[name]
    weights = dict(random_weights(spec))
    return Pair(spec=spec, ours=Qwen25VL.from_spec(spec, weights.items()), theirs=hf_model(spec, weights))


def random_weights(spec: ModelSpec) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield weights that keep activations and logits of order 1, with norms off 1 and biases off 0."""
    for row in parameter_table(spec):
        digest = hashlib.sha256(f"{spec.name}/{row.name}".encode()).digest()
        normal = np.random.default_rng(list(digest)).standard_normal(row.shape, np.float32)
        if row.name.endswith(".bias"):
            values = 0.2 * normal
        elif len(row.shape) == 1:
            values = 1.0 + 0.2 * normal
        elif row.name == "model.embed_tokens.weight" and not spec.text.tie_word_embeddings:
            values = 0.5 * normal
        else:
            values = normal / np.sqrt(np.prod(row.shape[1:]))
        yield row.name, values.astype(np.float32)


def hf_model(
    spec: ModelSpec, weights: dict[str, NDArray[np.float32]], attention: str = "sdpa"
) -> Qwen2_5_VLForConditionalGeneration:
    """Give HF's model of a spec with these weights, in evaluation mode, fp32."""
    model = Qwen2_5_VLForConditionalGeneration(hf_config(spec)).eval()
    model.set_attn_implementation(attention)
    state = {hf_name(name): torch.from_numpy(array) for name, array in weights.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"lm_head.weight"}, missing
    if spec.text.tie_word_embeddings:
        model.tie_weights()
        assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    # Rows of a batch have to run to the same length, so that the two results can be compared.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PAD
    return model


# --- inputs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Arguments of both models, as numpy arrays under HF's names."""

    arrays: dict[str, NDArray[np.generic]]
    token_kinds: NDArray[np.int64] = field(repr=False)  # HF's mm_token_type_ids: 0 text, 1 image, 2 video

    def for_hf(self) -> dict[str, torch.Tensor]:
        """Give the arguments as torch tensors."""
        arrays = {**self.arrays, "mm_token_type_ids": self.token_kinds}
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Give true [B, T] where there is a token."""
        return self.arrays["attention_mask"].astype(bool)


# A part of a prompt: that many text tokens, or the grid (in merged units) of an image or a video with its seconds.
Text = int
Image = tuple[int, int]
Video = tuple[int, int, int, float]
Part = Text | Image | Video

# Seconds are small enough that a video's times stay within its sides: beyond, HF 5.23 places the text that follows
# differently from the released models' rule (qvl_core.geometry.mrope), which has a test of its own.
PROMPTS: dict[str, Sequence[Sequence[Part]]] = {
    "text": [[13]],
    "one image": [[3, (4, 6), 7]],
    "images of different sizes": [[2, (2, 2), 3, (5, 3), (1, 9), 4]],
    "video": [[4, (3, 4, 5, 0.5), 6]],
    "mixed, padded left": [[2, (3, 4), 5, (2, 4, 4, 0.6), 3], [11], [1, (2, 5, 3, 0.7), 2, (2, 3), (4, 1), 6]],
    "mixed, padded right": [[9], [3, (2, 3, 7, 0.4), (6, 2), 4], [2, (1, 1), 8]],
}


def make_inputs(spec: ModelSpec, rows: Sequence[Sequence[Part]], *, pad: str = "left", seed: int = 0) -> Inputs:
    """Give random text, pixels and the grids for prompts, padded on one side."""
    rng = np.random.default_rng(seed)
    merge, unit = spec.vision.spatial_merge_size, spec.vision.merge_unit
    ids_of_rows: list[list[int]] = []
    grids: dict[str, list[list[int]]] = {"image": [], "video": []}
    seconds: list[float] = []
    for parts in rows:
        ids: list[int] = []
        for part in parts:
            if isinstance(part, int):
                ids += rng.integers(0, PLAIN_IDS - 1, part).tolist()
                continue
            time, height, width = (1, *part) if len(part) == 2 else part[:3]
            kind, token = ("image", spec.tokens.image) if len(part) == 2 else ("video", spec.tokens.video)
            grids[kind].append([time, height * merge, width * merge])
            seconds += [] if len(part) == 2 else [part[3]]
            ids += [spec.tokens.vision_start, *[token] * (time * height * width), spec.tokens.vision_end]
        ids_of_rows.append(ids)
    length = max(map(len, ids_of_rows))
    input_ids = np.full((len(rows), length), PAD, np.int64)
    mask = np.zeros_like(input_ids)
    for row, ids in enumerate(ids_of_rows):
        place = slice(length - len(ids), length) if pad == "left" else slice(0, len(ids))
        input_ids[row, place], mask[row, place] = ids, 1
    arrays: dict[str, NDArray[np.generic]] = {"input_ids": input_ids, "attention_mask": mask}
    for kind, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        if grids[kind]:
            table = np.array(grids[kind], np.int64)
            arrays[f"{kind}_grid_thw"] = table
            patches = int(table.prod(axis=1).sum())
            assert patches % unit == 0
            arrays[pixels] = rng.standard_normal((patches, spec.vision.patch_dim), np.float32)
    if seconds:
        arrays["second_per_grid_ts"] = np.array(seconds, np.float32)
    kinds = (input_ids == spec.tokens.image) + 2 * (input_ids == spec.tokens.video)
    return Inputs(arrays=arrays, token_kinds=kinds.astype(np.int64))


def prompt_inputs(spec: ModelSpec, name: str) -> Inputs:
    """Give the inputs of one of PROMPTS."""
    return make_inputs(spec, PROMPTS[name], pad="right" if "right" in name else "left", seed=len(name))
