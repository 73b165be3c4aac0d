"""Text decoder: grouped-query attention with M-RoPE, SwiGLU. Qwen2.5-VL (arXiv 2502.13923), section 2.1.2.

Tokens of all sequences lie flat, one sequence after another; `segments` says where each begins. Head counts follow from
the width of the projections, so a cell with cut weights needs no other change.

Legend: T tokens, D model width, N query heads, K key-value heads, H head size.
"""

from __future__ import annotations

from typing import Protocol

from mindspore import Tensor, nn

from qvl_core import kernels
from qvl_core.kernels.segments import Segments
from qvl_core.model.layers import Embedding, Layers, Linear, RMSNorm, run_layer
from qvl_core.specs.model_spec import TextSpec
from qvl_core.stage_part import StagePart


class AttentionCache(Protocol):
    """What generation puts in place of plain attention: keeps keys and values and attends over the kept ones."""

    def attend(
        self, layer: int, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, segments: Segments, scale: float
    ) -> Tensor:
        """Store this step's keys and values of `layer`, give the attention output [T, N, H]."""
        ...


class TextAttention(nn.Cell):
    """Causal attention within each segment; q, k, v with bias, o without."""

    def __init__(self, spec: TextSpec, layer: int, dtype: str) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = spec.head_dim
        self.scale = spec.head_dim**-0.5
        q_width, kv_width = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        self.q_proj = Linear(spec.hidden_size, q_width, bias=True, dtype=dtype)
        self.k_proj = Linear(spec.hidden_size, kv_width, bias=True, dtype=dtype)
        self.v_proj = Linear(spec.hidden_size, kv_width, bias=True, dtype=dtype)
        self.o_proj = Linear(q_width, spec.hidden_size, bias=False, dtype=dtype)

    def construct(
        self, x_TD: Tensor, cos_TH: Tensor, sin_TH: Tensor, segments: Segments, cache: AttentionCache | None
    ) -> Tensor:
        tokens = x_TD.shape[0]
        q_TNH = kernels.rope(self.q_proj(x_TD).reshape(tokens, -1, self.head_dim), cos_TH, sin_TH)
        k_TKH = kernels.rope(self.k_proj(x_TD).reshape(tokens, -1, self.head_dim), cos_TH, sin_TH)
        v_TKH = self.v_proj(x_TD).reshape(tokens, -1, self.head_dim)
        if cache is None:
            out_TNH = kernels.attention(q_TNH, k_TKH, v_TKH, segments, causal=True, scale=self.scale)
        else:
            out_TNH = cache.attend(self.layer, q_TNH, k_TKH, v_TKH, segments, self.scale)
        return self.o_proj(out_TNH.reshape(tokens, -1))


class TextMlp(nn.Cell):
    """SwiGLU without biases."""

    def __init__(self, spec: TextSpec, dtype: str) -> None:
        super().__init__()
        self.gate_proj = Linear(spec.hidden_size, spec.intermediate_size, bias=False, dtype=dtype)
        self.up_proj = Linear(spec.hidden_size, spec.intermediate_size, bias=False, dtype=dtype)
        self.down_proj = Linear(spec.intermediate_size, spec.hidden_size, bias=False, dtype=dtype)

    def construct(self, x_TD: Tensor) -> Tensor:
        return self.down_proj(kernels.swiglu(self.gate_proj(x_TD), self.up_proj(x_TD)))


class TextLayer(nn.Cell):
    """One pre-norm decoder layer."""

    def __init__(self, spec: TextSpec, layer: int, dtype: str) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(spec.hidden_size, spec.rms_norm_eps, dtype)
        self.self_attn = TextAttention(spec, layer, dtype)
        self.post_attention_layernorm = RMSNorm(spec.hidden_size, spec.rms_norm_eps, dtype)
        self.mlp = TextMlp(spec, dtype)

    def construct(
        self, x_TD: Tensor, cos_TH: Tensor, sin_TH: Tensor, segments: Segments, cache: AttentionCache | None
    ) -> Tensor:
        x_TD = x_TD + self.self_attn(self.input_layernorm(x_TD), cos_TH, sin_TH, segments, cache)
        return x_TD + self.mlp(self.post_attention_layernorm(x_TD))


class TextDecoder(nn.Cell):
    """Embedding, layers and the final norm, or those of them that a pipeline stage holds.

    The three are called one by one: vision features go in between the first two, and the loss needs the norm only on
    the rows that have a label. With tied weights the last stage holds the embedding too: it is the output head.
    """

    def __init__(self, spec: TextSpec, dtype: str, part: StagePart) -> None:
        super().__init__()
        has_table = part.embeds or (part.head and spec.tie_word_embeddings)
        self.embed_tokens = Embedding(spec.vocab_size, spec.hidden_size, dtype) if has_table else None
        self.layers = Layers({layer: TextLayer(spec, layer, dtype) for layer in part.text_layers})
        self.norm = RMSNorm(spec.hidden_size, spec.rms_norm_eps, dtype) if part.head else None
        self.recompute_layers = False

    def construct(
        self,
        x_TD: Tensor,
        cos_TH: Tensor,
        sin_TH: Tensor,
        segments: Segments,
        cache: AttentionCache | None = None,
    ) -> Tensor:
        """Run the layers, without embedding and without final norm. A `cache` attends in place of plain attention."""
        for layer in self.layers:
            x_TD = run_layer(layer, self.recompute_layers, x_TD, cos_TH, sin_TH, segments, cache)
        return x_TD
