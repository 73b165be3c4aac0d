"""What HF transformers gives for sizes, windows and positions, and the random cases that it is asked.

Two oracles for M-RoPE. `hf_positions` is Qwen2.5-VL as installed: text after a video ignores the video's times
(rule "transformers5"). `omni_positions` is Qwen2.5-Omni as installed: it kept the rule of the paper, with the same
time, row and column positions for images and videos.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray
from qvl_core.specs.model_spec import ModelSpec, TextSpec, TokenIds, VisionSpec
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniPreTrainedModelForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from transformers.vision_utils import get_vision_attention_seqlens, get_vision_window_index

TOKENS = TokenIds(vision_start=1, vision_end=2, image=3, video=4)
PAD, FIRST_TEXT_ID, LAST_TEXT_ID = 0, 10, 99
NO_AUDIO, NO_AUDIO_START = 7, 8


class RopeCase(SimpleNamespace):
    """A padded batch: input_ids and mask [B, T], images and videos [N, 3], seconds [videos] float32, merge, rate."""

    input_ids: NDArray[np.int64]
    mask: NDArray[np.int64]
    images: NDArray[np.int64]
    videos: NDArray[np.int64]
    seconds: NDArray[np.float32]
    merge: int
    rate: float


def vision_spec(**changes: object) -> VisionSpec:
    """Give the released vision spec with `changes`."""
    sizes = {"depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420, "out_hidden_size": 2048}
    return VisionSpec(**{**sizes, **changes})


def model_spec(merge: int = 2, rate: float = 2.0) -> ModelSpec:
    """Give a spec with the small token ids of the cases."""
    text = TextSpec(
        num_layers=1,
        hidden_size=2048,
        intermediate_size=1,
        num_heads=16,
        num_kv_heads=2,
        vocab_size=100,
        tie_word_embeddings=True,
        head_dim=128,
    )
    vision = vision_spec(spatial_merge_size=merge, tokens_per_second=rate)
    return ModelSpec(name="cases", vision=vision, text=text, tokens=TOKENS)


def random_rope_case(rng: np.random.Generator, *, wrapped: bool, largest: int = 12) -> RopeCase:
    """Draw rows of text, images and videos; `wrapped` puts vision_start and vision_end round each of them."""
    merge, rate = int(rng.integers(1, 4)), float(rng.choice([1.0, 2.0, 4.0]))
    images: list[list[int]] = []
    videos: list[list[int]] = []
    rows = [_random_row(rng, merge, images, videos, wrapped, largest) for _ in range(rng.integers(1, 5))]
    longest = max(map(len, rows)) + int(rng.integers(0, 4))
    input_ids = np.full((len(rows), longest), PAD, np.int64)
    mask = np.zeros_like(input_ids)
    for index, row in enumerate(rows):
        room = longest - len(row)
        start = int(rng.choice([0, room, rng.integers(0, room + 1)]))
        input_ids[index, start : start + len(row)] = row
        mask[index, start : start + len(row)] = 1
    seconds = np.round(
        rng.choice([rng.uniform(0.01, 6, len(videos)), rng.choice([0.1, 0.5, 1, 2 / 3], len(videos))]), 3
    )
    return RopeCase(
        input_ids=input_ids,
        mask=mask,
        images=np.array(images, np.int64).reshape(-1, 3),
        videos=np.array(videos, np.int64).reshape(-1, 3),
        seconds=seconds.astype(np.float32),
        merge=merge,
        rate=rate,
    )


def _random_row(
    rng: np.random.Generator, merge: int, images: list[list[int]], videos: list[list[int]], wrapped: bool, largest: int
) -> list[int]:
    row = _text(rng, int(rng.integers(1, 9)))
    for _ in range(rng.choice([0, 1, 1, 2, 3, 5])):
        is_video = bool(rng.integers(0, 2))
        slices = int(rng.integers(1, 21)) if is_video else 1
        height, width = (int(side) * merge for side in rng.integers(1, largest // merge + 1, 2))
        (videos if is_video else images).append([slices, height, width])
        pads = [TOKENS.video if is_video else TOKENS.image] * (slices * height * width // merge**2)
        # Without a wrapper one text token has to part two images: the installed Qwen2.5-VL counts runs, not tokens.
        row += [TOKENS.vision_start, *pads, TOKENS.vision_end] if wrapped else pads
        row += _text(rng, int(rng.integers(0 if wrapped else 1, 6)))
    return row


def _text(rng: np.random.Generator, length: int) -> list[int]:
    return rng.integers(FIRST_TEXT_ID, LAST_TEXT_ID + 1, length).tolist()


def hf_positions(case: RopeCase, *, seconds_as_list: bool = False) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions [3, B, T] and deltas [B] of Qwen2.5-VL as installed; it asks for the kind of each token."""
    vision = SimpleNamespace(spatial_merge_size=case.merge, tokens_per_second=case.rate)
    model = SimpleNamespace(config=SimpleNamespace(vision_config=vision))
    model.get_vision_position_ids = lambda *args, **kwargs: Qwen2_5_VLModel.get_vision_position_ids(
        model, *args, **kwargs
    )
    kinds = (case.input_ids == TOKENS.image) + 2 * (case.input_ids == TOKENS.video)
    positions, deltas = Qwen2_5_VLModel.get_rope_index(
        model,
        torch.from_numpy(case.input_ids),
        torch.from_numpy(kinds),
        image_grid_thw=torch.from_numpy(case.images),
        video_grid_thw=torch.from_numpy(case.videos),
        second_per_grid_ts=case.seconds.tolist() if seconds_as_list else torch.from_numpy(case.seconds),
        attention_mask=torch.from_numpy(case.mask),
    )
    return positions.numpy(), deltas.numpy().reshape(-1)


def omni_positions(case: RopeCase) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions [3, B, T] and deltas [B] of Qwen2.5-Omni as installed, for wrapped cases."""
    config = SimpleNamespace(
        image_token_id=TOKENS.image,
        video_token_id=TOKENS.video,
        audio_token_id=NO_AUDIO,
        vision_start_token_id=TOKENS.vision_start,
        audio_start_token_id=NO_AUDIO_START,
        position_id_per_seconds=case.rate,
        seconds_per_chunk=2.0,
    )
    source = Qwen2_5OmniPreTrainedModelForConditionalGeneration
    model = SimpleNamespace(config=config, spatial_merge_size=case.merge)
    model.get_llm_pos_ids_for_vision = lambda *args: source.get_llm_pos_ids_for_vision(model, *args)
    positions, deltas = source.get_rope_index(
        model,
        torch.from_numpy(case.input_ids),
        image_grid_thw=torch.from_numpy(case.images),
        video_grid_thw=torch.from_numpy(case.videos),
        attention_mask=torch.from_numpy(case.mask),
        second_per_grids=torch.from_numpy(case.seconds),
    )
    return positions.numpy().astype(np.int64), deltas.numpy().reshape(-1).astype(np.int64)


def hf_windows(grids: NDArray[np.int64], vision: VisionSpec) -> tuple[NDArray[np.int64], list[int], list[int]]:
    """Window index [U], window lengths and frame lengths in patches, as installed."""
    grids_N3 = torch.from_numpy(grids)
    index, window_ends = get_vision_window_index(
        grids_N3, vision.spatial_merge_size, vision.window_size, vision.patch_size
    )
    frame_ends, _ = get_vision_attention_seqlens(grids_N3, SimpleNamespace(_attn_implementation="eager"))
    return index.numpy(), np.diff(window_ends.numpy()).tolist(), np.diff(frame_ends.numpy()).tolist()


def random_sides(rng: np.random.Generator) -> tuple[int, int]:
    """Draw height and width, 28 to 12,000 px, log-uniform, aspect ratio at most 200."""
    first = int(np.exp(rng.uniform(np.log(28), np.log(12000))))
    ratio = float(np.exp(rng.uniform(0, np.log(200))))
    second = min(12000, max(28, round(first / ratio), -(-first // 200)))
    return (first, second) if rng.integers(0, 2) else (second, first)


def random_bounds(rng: np.random.Generator, factor: int) -> tuple[int, int]:
    """Draw min_pixels <= max_pixels: the released ones, or any from 1 token to 16,384 tokens."""
    if rng.integers(0, 3) == 0:
        return 4 * factor**2, 16384 * factor**2
    low, high = sorted(np.exp(rng.uniform(0, np.log(16384), 2)) * factor**2)
    return int(low), int(high)


def random_grids(rng: np.random.Generator, merge: int, largest: int) -> NDArray[np.int64]:
    """Draw 1 to 4 grids with sides up to `largest` merged units."""
    count = int(rng.integers(1, 5))
    slices = rng.choice([1, 1, 2, 3, 7], count)
    return np.stack([slices, *(rng.integers(1, largest + 1, (2, count)) * merge)], axis=1).astype(np.int64)
