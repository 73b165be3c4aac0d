"""The reference stack's tensors (MindSpeed-MM) in terms of HF's: names, and which rows and columns make up each.

It fuses q, k and v, group by group (text: all query heads of a KV group, then its key, its value; vision: head by
head), and gate above up. Layer numbers begin at 0 on every stage. What every tensor rank holds:

    rows        vocabulary tensors, q/k/v by whole groups, gate and up each, the merger's first matrix
    columns     output projections, down projections, the merger's second matrix
    everything  norms, patch embedding, biases of the output and down projections

The patch embedding keeps its five dimensions. A tied model on several stages has the embedding once more, as
`output_layer.weight` on the last stage with text layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qvl_core.layout import Layout
from qvl_core.params import EMBEDDING, LM_HEAD, layer_stages, parameter_table
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.weights.cuts import matrix_shape

VISION_LAYER = "image_encoder.encoder.blocks.layers."
TEXT_LAYER = "text_decoder.decoder.layers."
OUTPUT_LAYER = "text_decoder.output_layer.weight"

# (HF name, reference name) of what lies outside the layers.
_VISION_FIRST = (("visual.patch_embed.proj.weight", "image_encoder.encoder.patch_embed.proj.weight"),)
_VISION_LAST = (
    ("visual.merger.ln_q.weight", "image_encoder.projector.layernorm.weight"),
    ("visual.merger.mlp.0.weight", "image_encoder.projector.encoder.linear_fc1.weight"),
    ("visual.merger.mlp.0.bias", "image_encoder.projector.encoder.linear_fc1.bias"),
    ("visual.merger.mlp.2.weight", "image_encoder.projector.encoder.linear_fc2.weight"),
    ("visual.merger.mlp.2.bias", "image_encoder.projector.encoder.linear_fc2.bias"),
)
_TEXT_FIRST = ((EMBEDDING, "text_decoder.embedding.word_embeddings.weight"),)
_TEXT_LAST = (("model.norm.weight", "text_decoder.decoder.final_layernorm.weight"),)
# (HF names in the order of the fused rows, reference name) within a layer.
_Fused = tuple[tuple[tuple[str, ...], str], ...]
_VISION_FUSED: _Fused = (
    (("norm1.weight",), "input_layernorm.weight"),
    (("attn.qkv.weight",), "self_attention.linear_qkv.weight"),
    (("attn.qkv.bias",), "self_attention.linear_qkv.bias"),
    (("attn.proj.weight",), "self_attention.linear_proj.weight"),
    (("attn.proj.bias",), "self_attention.linear_proj.bias"),
    (("norm2.weight",), "pre_mlp_layernorm.weight"),
    (("mlp.gate_proj.weight", "mlp.up_proj.weight"), "mlp.linear_fc1.weight"),
    (("mlp.gate_proj.bias", "mlp.up_proj.bias"), "mlp.linear_fc1.bias"),
    (("mlp.down_proj.weight",), "mlp.linear_fc2.weight"),
    (("mlp.down_proj.bias",), "mlp.linear_fc2.bias"),
)
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_TEXT_FUSED: _Fused = (
    (("input_layernorm.weight",), "input_layernorm.weight"),
    (tuple(f"{name}.weight" for name in _QKV), "self_attention.linear_qkv.weight"),
    (tuple(f"{name}.bias" for name in _QKV), "self_attention.linear_qkv.bias"),
    (("self_attn.o_proj.weight",), "self_attention.linear_proj.weight"),
    (("post_attention_layernorm.weight",), "pre_mlp_layernorm.weight"),
    (("mlp.gate_proj.weight", "mlp.up_proj.weight"), "mlp.linear_fc1.weight"),
    (("mlp.down_proj.weight",), "mlp.linear_fc2.weight"),
)


@dataclass(frozen=True, kw_only=True)
class Box:
    """Rows `first_row` to `stop_row`, columns `first_column` to `stop_column` of an HF tensor seen as a matrix."""

    name: str
    first_row: int
    stop_row: int
    first_column: int
    stop_column: int

    @property
    def rows(self) -> int:
        return self.stop_row - self.first_row

    @property
    def columns(self) -> int:
        return self.stop_column - self.first_column


@dataclass(frozen=True, kw_only=True)
class FusedTensor:
    """A tensor of the reference stack. `ranks[t]` are the boxes that, one below the other, tensor rank t holds.

    With `replicated` there is one entry, for all ranks. `trailing` are the dimensions of a whole row. `is_tied_copy`
    marks the embedding that a tied model has once more on its last stage.
    """

    key: str
    stage: int
    names: tuple[str, ...]
    ranks: tuple[tuple[Box, ...], ...]
    trailing: tuple[int, ...]
    replicated: bool
    is_tied_copy: bool = False

    def boxes(self, rank: int) -> tuple[Box, ...]:
        """Give what a tensor rank holds."""
        return self.ranks[0] if self.replicated else self.ranks[rank]

    def shape(self, rank: int) -> tuple[int, ...]:
        """Give the shape of a tensor rank's part."""
        boxes = self.boxes(rank)
        rows = sum(box.rows for box in boxes)
        if len(self.trailing) == 1:
            return (rows, boxes[0].columns)
        return (rows, *self.trailing)


def fused_tensors(spec: ModelSpec, layout: Layout, *, tied_copy: bool) -> tuple[FusedTensor, ...]:
    """List every tensor of all stages; each element of the HF tensors is in exactly one of them, the tied copy apart.

    The layout's stage lists have to add up, and its `tp` to divide what is cut. Several virtual stages on a rank count
    as stages of their own here. `tied_copy` asks for the second copy of a tied embedding; an untied model has none.
    """
    return tuple(_Map(spec, layout).tensors(tied_copy=tied_copy))


class _Map:
    def __init__(self, spec: ModelSpec, layout: Layout) -> None:
        self._spec = spec
        self._layout = layout
        self._shapes = {row.name: row.shape for row in parameter_table(spec)}
        self._rules = {row.name: row.shard for row in parameter_table(spec)}

    def tensors(self, *, tied_copy: bool) -> Iterator[FusedTensor]:
        text, vision = self._layout.text_stages, self._layout.vision_stages
        if stages := layer_stages(vision):
            yield from self._outside(_VISION_FIRST, stages[0])
            yield from self._layers(vision, "visual.blocks.", _VISION_FUSED, VISION_LAYER)
            yield from self._outside(_VISION_LAST, stages[-1])
        if stages := layer_stages(text):
            yield from self._outside(_TEXT_FIRST, stages[0])
            yield from self._layers(text, "model.layers.", _TEXT_FUSED, TEXT_LAYER)
            yield from self._outside(_TEXT_LAST, stages[-1])
            if not self._spec.text.tie_word_embeddings:
                yield self._tensor(OUTPUT_LAYER, stages[-1], (LM_HEAD,))
            elif tied_copy:
                yield self._tensor(OUTPUT_LAYER, stages[-1], (EMBEDDING,), is_tied_copy=True)

    def _outside(self, names: tuple[tuple[str, str], ...], stage: int) -> Iterator[FusedTensor]:
        for name, key in names:
            yield self._tensor(key, stage, (name,))

    def _layers(self, stages: tuple[int, ...], hf: str, fused: _Fused, prefix: str) -> Iterator[FusedTensor]:
        layer = 0
        for stage, count in enumerate(stages):
            for local in range(count):
                for names, key in fused:
                    yield self._tensor(f"{prefix}{local}.{key}", stage, tuple(f"{hf}{layer}.{name}" for name in names))
                layer += 1

    def _tensor(self, key: str, stage: int, names: tuple[str, ...], *, is_tied_copy: bool = False) -> FusedTensor:
        tp = self._layout.tp
        replicated = self._rules[names[0]] == "replicate"
        return FusedTensor(
            key=key,
            stage=stage,
            names=names,
            ranks=tuple(tuple(self._boxes(names, rank)) for rank in range(1 if replicated else tp)),
            trailing=self._shapes[names[0]][1:],
            replicated=replicated,
            is_tied_copy=is_tied_copy,
        )

    def _boxes(self, names: tuple[str, ...], rank: int) -> Iterator[Box]:
        """Give what a rank holds of a fused tensor: pieces of each HF tensor in turn, group by group."""
        tp, rule = self._layout.tp, self._rules[names[0]]
        rows, columns = matrix_shape(self._shapes[names[0]])
        if rule == "replicate":
            yield Box(name=names[0], first_row=0, stop_row=rows, first_column=0, stop_column=columns)
        elif rule == "row":
            width = columns // tp
            first = rank * width
            yield Box(name=names[0], first_row=0, stop_row=rows, first_column=first, stop_column=first + width)
        elif rule == "fused_thirds":
            heads = self._spec.vision.num_heads
            third = rows // 3
            size = third // heads
            for head in range(rank * heads // tp, (rank + 1) * heads // tp):
                for start in (0, third, 2 * third):
                    yield self._rows(names[0], start + head * size, size)
        else:
            groups = self._spec.text.num_kv_heads if len(names) == 3 else tp
            for group in range(rank * groups // tp, (rank + 1) * groups // tp):
                for name in names:
                    size = self._shapes[name][0] // groups
                    yield self._rows(name, group * size, size)

    def _rows(self, name: str, first: int, count: int) -> Box:
        columns = matrix_shape(self._shapes[name])[1]
        return Box(name=name, first_row=first, stop_row=first + count, first_column=0, stop_column=columns)
