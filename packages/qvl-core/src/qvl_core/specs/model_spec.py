"""The shape of a Qwen2.5-VL model: everything that its weights and forward pass depend on.

Field names follow the HF classes `Qwen2_5_VLVisionConfig` and `Qwen2_5_VLTextConfig` where those are plain words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Where the text after a video starts: at the largest position of the video + 1, time included, or at the video's
# start + the longer side of its grid, as transformers 5 has it. See geometry/mrope.py.
PositionRule = Literal["paper", "transformers5"]


@dataclass(frozen=True, kw_only=True)
class VisionSpec:
    """Vision encoder and merger. Sizes in elements, `window_size` in pixels."""

    depth: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    out_hidden_size: int
    in_channels: int = 3
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    window_size: int = 112
    full_attention_blocks: tuple[int, ...] = (7, 15, 23, 31)
    tokens_per_second: float = 2.0
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def merge_unit(self) -> int:
        """Patches that the merger joins into one token."""
        return self.spatial_merge_size**2

    @property
    def patch_dim(self) -> int:
        """Numbers in one flattened patch: channels x frames x height x width."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """Text decoder. `mrope_section` counts rotary frequencies (half the head size) for time, height, width."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int
    tie_word_embeddings: bool
    head_dim: int
    mrope_section: tuple[int, int, int] = (16, 24, 24)
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 128000


@dataclass(frozen=True, kw_only=True)
class TokenIds:
    """Ids that the model's code, not only the tokenizer, has to know."""

    vision_start: int = 151652
    vision_end: int = 151653
    image: int = 151655
    video: int = 151656


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A Qwen2.5-VL model (arXiv 2502.13923, section 2.1 and table 1).

    `position_rule` is that of the library that wrote the checkpoint: the published ones, and all that transformers 4
    wrote, were trained and run with "paper".
    """

    name: str
    vision: VisionSpec
    text: TextSpec
    tokens: TokenIds = TokenIds()
    position_rule: PositionRule = "paper"
