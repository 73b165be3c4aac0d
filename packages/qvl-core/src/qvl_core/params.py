"""The parameter table: every weight of a model, its shape, where it lives and how it is cut.

The model is tested to have exactly this table on every rank, the converter to produce it. Names are those of the
published HF checkpoints (`visual.*`, `model.*`, `lm_head.weight`), q/k/v and gate/up unfused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from qvl_core.layout import Layout
from qvl_core.specs.model_spec import ModelSpec

Component = Literal["vision", "merger", "text"]
ShardRule = Literal["replicate", "column", "row", "vocab", "fused_thirds"]

EMBEDDING = "model.embed_tokens.weight"
LM_HEAD = "lm_head.weight"


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One row of the table.

    `stages` are the pipeline stages that hold it: one, or two for a tied embedding that first and last text stage
    share. `layer` is the index within the component, None outside the blocks. `shard` says how tensor ranks cut it:
    `column` and `vocab` cut dim 0, `row` cuts dim 1, `fused_thirds` cuts each of the q, k, v thirds of dim 0.
    `partial_gradient`: of this replicated parameter each tensor rank computes a summand of the gradient, not all of it.
    """

    name: str
    shape: tuple[int, ...]
    component: Component
    layer: int | None
    stages: tuple[int, ...]
    shard: ShardRule
    partial_gradient: bool = False

    def local_shape(self, tp: int) -> tuple[int, ...]:
        """Give the shape that each of `tp` tensor ranks holds."""
        if self.shard == "replicate":
            return self.shape
        dim = 1 if self.shard == "row" else 0
        return tuple(size // tp if i == dim else size for i, size in enumerate(self.shape))

    @property
    def size(self) -> int:
        """Count the elements of the whole tensor."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count


def parameter_table(spec: ModelSpec, layout: Layout | None = None) -> tuple[Parameter, ...]:
    """List every parameter in checkpoint order; without a layout, all of them on one stage.

    The layout must have passed `check_layout`: stage lists that do not add up give a wrong table.
    """
    layout = layout or Layout.single(spec)
    return (*_vision(spec, layout), *_text(spec, layout))


def parameter_count(spec: ModelSpec) -> int:
    """Count the parameters of the whole model; tied embeddings count once."""
    return sum(parameter.size for parameter in parameter_table(spec))


def _vision(spec: ModelSpec, layout: Layout) -> Iterator[Parameter]:
    vision = spec.vision
    width, ffn = vision.hidden_size, vision.intermediate_size
    stage_of = layer_stages(layout.vision_stages)
    first, last = (stage_of[0], stage_of[-1]) if stage_of else (0, 0)

    def row(name: str, shape: tuple[int, ...], shard: ShardRule, layer: int) -> Parameter:
        return Parameter(
            name=f"visual.blocks.{layer}.{name}",
            shape=shape,
            component="vision",
            layer=layer,
            stages=(stage_of[layer],),
            shard=shard,
        )

    patch = (width, vision.in_channels, vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    yield Parameter(
        name="visual.patch_embed.proj.weight",
        shape=patch,
        component="vision",
        layer=None,
        stages=(first,),
        shard="replicate",
    )
    for layer in range(vision.depth):
        yield row("norm1.weight", (width,), "replicate", layer)
        yield row("norm2.weight", (width,), "replicate", layer)
        yield row("attn.qkv.weight", (3 * width, width), "fused_thirds", layer)
        yield row("attn.qkv.bias", (3 * width,), "fused_thirds", layer)
        yield row("attn.proj.weight", (width, width), "row", layer)
        yield row("attn.proj.bias", (width,), "replicate", layer)
        for projection in ("gate_proj", "up_proj"):
            yield row(f"mlp.{projection}.weight", (ffn, width), "column", layer)
            yield row(f"mlp.{projection}.bias", (ffn,), "column", layer)
        yield row("mlp.down_proj.weight", (width, ffn), "row", layer)
        yield row("mlp.down_proj.bias", (width,), "replicate", layer)

    merged = width * vision.merge_unit
    merger: tuple[tuple[str, tuple[int, ...], ShardRule], ...] = (
        ("ln_q.weight", (width,), "replicate"),
        ("mlp.0.weight", (merged, merged), "column"),
        ("mlp.0.bias", (merged,), "column"),
        ("mlp.2.weight", (vision.out_hidden_size, merged), "row"),
        ("mlp.2.bias", (vision.out_hidden_size,), "replicate"),
    )
    for name, shape, shard in merger:
        yield Parameter(
            name=f"visual.merger.{name}", shape=shape, component="merger", layer=None, stages=(last,), shard=shard
        )


def _text(spec: ModelSpec, layout: Layout) -> Iterator[Parameter]:
    text = spec.text
    width, ffn = text.hidden_size, text.intermediate_size
    q_width, kv_width = text.num_heads * text.head_dim, text.num_kv_heads * text.head_dim
    stage_of = layer_stages(layout.text_stages)
    first, last = (stage_of[0], stage_of[-1]) if stage_of else (0, 0)
    both = (first,) if first == last else (first, last)

    def row(
        name: str, shape: tuple[int, ...], shard: ShardRule, stages: tuple[int, ...], layer: int | None = None
    ) -> Parameter:
        return Parameter(name=name, shape=shape, component="text", layer=layer, stages=stages, shard=shard)

    vocabulary = (text.vocab_size, width)
    yield row(EMBEDDING, vocabulary, "vocab", both if text.tie_word_embeddings else (first,))
    for layer in range(text.num_layers):
        prefix, at = f"model.layers.{layer}.", (stage_of[layer],)
        yield row(f"{prefix}input_layernorm.weight", (width,), "replicate", at, layer)
        for projection, out in (("q_proj", q_width), ("k_proj", kv_width), ("v_proj", kv_width)):
            yield row(f"{prefix}self_attn.{projection}.weight", (out, width), "column", at, layer)
            yield row(f"{prefix}self_attn.{projection}.bias", (out,), "column", at, layer)
        yield row(f"{prefix}self_attn.o_proj.weight", (width, q_width), "row", at, layer)
        yield row(f"{prefix}post_attention_layernorm.weight", (width,), "replicate", at, layer)
        yield row(f"{prefix}mlp.gate_proj.weight", (ffn, width), "column", at, layer)
        yield row(f"{prefix}mlp.up_proj.weight", (ffn, width), "column", at, layer)
        yield row(f"{prefix}mlp.down_proj.weight", (width, ffn), "row", at, layer)
    yield row("model.norm.weight", (width,), "replicate", (last,))
    if not text.tie_word_embeddings:
        yield row(LM_HEAD, vocabulary, "vocab", (last,))


def layer_stages(stages: tuple[int, ...]) -> tuple[int, ...]:
    """Give each layer's stage, from the number of layers on each stage: (2, 0, 1) -> (0, 0, 2)."""
    return tuple(stage for stage, count in enumerate(stages) for _ in range(count))
