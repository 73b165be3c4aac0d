"""Vision encoder: patches of images and video frames -> one feature per merged square of patches.

Windowed attention in most blocks, attention over the whole frame in a few; 2-D rotary positions; no final norm.
Qwen2.5-VL (arXiv 2502.13923), section 2.1.1. Patches arrive in window order (`plan.py` permutes them on the host) and
features leave in window order: the index that places them among the text tokens undoes the order for free.

Legend: P patches, C numbers in a patch, D vision width, N heads, H head size, U merged units, E text width.
"""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from qvl_core import kernels
from qvl_core.kernels.segments import Segments
from qvl_core.model.layers import Layers, Linear, RMSNorm, empty_parameter, run_layer
from qvl_core.specs.model_spec import VisionSpec
from qvl_core.stage_part import StagePart


class PatchProjection(nn.Cell):
    """Holder of the patch embedding's weight, in the checkpoint's convolution shape [D, channels, frames, h, w]."""

    def __init__(self, spec: VisionSpec, dtype: str) -> None:
        super().__init__()
        side = spec.patch_size
        shape = (spec.hidden_size, spec.in_channels, spec.temporal_patch_size, side, side)
        self.weight = empty_parameter(shape, dtype)

    def construct(self, patches_PC: Tensor) -> Tensor:
        """Project flat patches: kernel size equals stride, so the convolution is one matmul."""
        return kernels.patch_embed(patches_PC, self.weight.reshape(self.weight.shape[0], -1))


class PatchEmbed(nn.Cell):
    """patches_PC -> x_PD."""

    def __init__(self, spec: VisionSpec, dtype: str) -> None:
        super().__init__()
        self.proj = PatchProjection(spec, dtype)

    def construct(self, patches_PC: Tensor) -> Tensor:
        return self.proj(patches_PC)


class VisionAttention(nn.Cell):
    """Attention inside each segment, both ways; one fused qkv projection as in the checkpoint."""

    def __init__(self, spec: VisionSpec, dtype: str) -> None:
        super().__init__()
        self.head_dim = spec.head_dim
        self.scale = spec.head_dim**-0.5
        self.qkv = Linear(spec.hidden_size, 3 * spec.hidden_size, bias=True, dtype=dtype)
        self.proj = Linear(spec.hidden_size, spec.hidden_size, bias=True, dtype=dtype)

    def construct(self, x_PD: Tensor, cos_PH: Tensor, sin_PH: Tensor, segments: Segments) -> Tensor:
        patches = x_PD.shape[0]
        q_PNH, k_PNH, v_PNH = kernels.split_qkv(self.qkv(x_PD), self.head_dim)
        q_PNH, k_PNH = kernels.rope(q_PNH, cos_PH, sin_PH), kernels.rope(k_PNH, cos_PH, sin_PH)
        out_PNH = kernels.attention(q_PNH, k_PNH, v_PNH, segments, causal=False, scale=self.scale)
        return self.proj(out_PNH.reshape(patches, -1))


class VisionMlp(nn.Cell):
    """SwiGLU with biases."""

    def __init__(self, spec: VisionSpec, dtype: str) -> None:
        super().__init__()
        self.gate_proj = Linear(spec.hidden_size, spec.intermediate_size, bias=True, dtype=dtype)
        self.up_proj = Linear(spec.hidden_size, spec.intermediate_size, bias=True, dtype=dtype)
        self.down_proj = Linear(spec.intermediate_size, spec.hidden_size, bias=True, dtype=dtype)

    def construct(self, x_PD: Tensor) -> Tensor:
        return self.down_proj(kernels.swiglu(self.gate_proj(x_PD), self.up_proj(x_PD)))


class VisionBlock(nn.Cell):
    """One pre-norm block; `whole_frame` says which of the two segmentations it attends in."""

    def __init__(self, spec: VisionSpec, layer: int, dtype: str) -> None:
        super().__init__()
        self.whole_frame = layer in spec.full_attention_blocks
        self.norm1 = RMSNorm(spec.hidden_size, spec.rms_norm_eps, dtype)
        self.norm2 = RMSNorm(spec.hidden_size, spec.rms_norm_eps, dtype)
        self.attn = VisionAttention(spec, dtype)
        self.mlp = VisionMlp(spec, dtype)

    def construct(self, x_PD: Tensor, cos_PH: Tensor, sin_PH: Tensor, windows: Segments, frames: Segments) -> Tensor:
        segments = frames if self.whole_frame else windows
        x_PD = x_PD + self.attn(self.norm1(x_PD), cos_PH, sin_PH, segments)
        return x_PD + self.mlp(self.norm2(x_PD))


class Gelu(nn.Cell):
    """Exact GELU as a cell: the merger's layers are numbered 0, 1, 2 in the checkpoint, and this is number 1."""

    def construct(self, x_UD: Tensor) -> Tensor:
        return kernels.gelu(x_UD)


class Merger(nn.Cell):
    """x_PD -> features_UE: norm, join each unit's patches, two-layer MLP to the text width."""

    def __init__(self, spec: VisionSpec, dtype: str) -> None:
        super().__init__()
        self.joined = spec.hidden_size * spec.merge_unit
        self.ln_q = RMSNorm(spec.hidden_size, spec.rms_norm_eps, dtype)
        self.mlp = nn.SequentialCell(
            Linear(self.joined, self.joined, bias=True, dtype=dtype),
            Gelu(),
            Linear(self.joined, spec.out_hidden_size, bias=True, dtype=dtype),
        )

    def construct(self, x_PD: Tensor) -> Tensor:
        return self.mlp(self.ln_q(x_PD).reshape(-1, self.joined))


class VisionEncoder(nn.Cell):
    """Patch embedding, blocks and merger, or those of them that a pipeline stage holds.

    `stop_after` cuts the gradient: "blocks" when everything before the merger is frozen, "merger" when that is too.
    `recompute` names the components (vision, merger) whose activations are computed again in the backward pass.
    """

    def __init__(self, spec: VisionSpec, dtype: str, part: StagePart) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(spec, dtype) if part.patch_embed else None
        self.blocks = Layers({layer: VisionBlock(spec, layer, dtype) for layer in part.vision_layers})
        self.merger = Merger(spec, dtype) if part.merger else None
        self.stop_after = ""
        self.recompute_components: frozenset[str] = frozenset()

    def construct(self, x: Tensor, cos_PH: Tensor, sin_PH: Tensor, windows: Segments, frames: Segments) -> Tensor:
        """Give the features [U, E], or x_PD where the merger is on a later stage.

        x is patches_PC, or x_PD where the patch embedding is on an earlier stage.
        """
        x_PD = x if self.patch_embed is None else self.patch_embed(x)
        for block in self.blocks:
            x_PD = run_layer(block, "vision" in self.recompute_components, x_PD, cos_PH, sin_PH, windows, frames)
        if self.stop_after:
            x_PD = ops.stop_gradient(x_PD)
        if self.merger is None:
            return x_PD
        features_UE = run_layer(self.merger, "merger" in self.recompute_components, x_PD)
        return ops.stop_gradient(features_UE) if self.stop_after == "merger" else features_UE
