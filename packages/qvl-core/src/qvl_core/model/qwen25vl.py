"""The whole model: vision features at the image and video tokens, decoder, logits or token losses.

Qwen2.5-VL (arXiv 2502.13923), section 2.1. Everything that can be computed on the host from token ids and grids is in
the `Plan` (plan.py), once for each batch; this file is only what has weights.

Legend: B batch, T tokens, D model width, U merged units, L rows with a label, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mindspore import Parameter, Tensor, mint, nn, ops
from numpy.typing import ArrayLike, NDArray

from qvl_core import kernels
from qvl_core.batch import Batch
from qvl_core.generate.options import GenerationOptions, changed_options
from qvl_core.lora_table import is_factor
from qvl_core.model.inputs import Prompt, flatten_prompt
from qvl_core.model.layers import DTYPES, Linear
from qvl_core.model.lora import AdapterDropout
from qvl_core.model.plan import Plan, VisionInputs, plan_batch
from qvl_core.model.text import AttentionCache, TextDecoder
from qvl_core.model.vision import VisionEncoder
from qvl_core.params import Component, parameter_table
from qvl_core.specs.model_spec import ModelSpec
from qvl_core.stage_part import StagePart

if TYPE_CHECKING:
    from qvl_core.generate.engine import Engine
    from qvl_core.generate.stream import Step


class TokenLoss(nn.Cell):
    """logits_LV, labels_L -> losses_L. A cell, so that a stage with a cut vocabulary can put its own in place."""

    def construct(self, logits_LV: Tensor, labels_L: Tensor) -> Tensor:
        return kernels.cross_entropy(logits_LV, labels_L)


class Qwen25VL(nn.Cell):
    """Qwen2.5-VL with the parameter names of the published checkpoints (`params.parameter_table`)."""

    def __init__(self, spec: ModelSpec, dtype: str = "float32", part: StagePart | None = None) -> None:
        """Build with all weights zero; `from_pretrained` and `from_spec` fill them.

        With `part`, only that part of the model: the cells of the others are None or empty.
        """
        super().__init__()
        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r}: one of {', '.join(DTYPES)}")
        self.spec = spec
        self.dtype = dtype
        self.part = part or StagePart.whole(spec)
        self.visual = VisionEncoder(spec.vision, dtype, self.part) if self.part.vision_layers else None
        self.model = TextDecoder(spec.text, dtype, self.part) if self.part.text_layers else None
        width, vocabulary = spec.text.hidden_size, spec.text.vocab_size
        has_head = self.part.head and not spec.text.tie_word_embeddings
        self.lm_head = Linear(width, vocabulary, bias=False, dtype=dtype) if has_head else None
        self.token_loss = TokenLoss()
        self.table = parameter_table(spec)
        """The rows that this model has parameters of, or its other parts have; adapters come behind the weights."""
        self.dropout: AdapterDropout | None = None
        self.runs_media_apart = False
        """Whether the vision encoder runs each medium by itself, so that its features are the same in every batch."""
        self.generation_defaults = GenerationOptions()
        self.idle_engine: Engine | None = None
        """What `generate` ran on last, kept for what it has compiled."""
        self.name_parameters()

    @classmethod
    def from_pretrained(cls, hf_dir: str | Path, dtype: str = "float32") -> Qwen25VL:
        """Load an HF folder of the family, either key spelling, one file or several, cast to `dtype`.

        Raises WeightsError naming every tensor that is missing, left over or of another shape.
        """
        from qvl_core.model.load import load_pretrained

        return load_pretrained(hf_dir, dtype)

    @classmethod
    def from_spec(
        cls, spec: ModelSpec, weights: Iterable[tuple[str, NDArray[np.generic]]], dtype: str = "float32"
    ) -> Qwen25VL:
        """Build from (name, array) pairs in any order, e.g. of `initialize.random_weights`.

        Raises WeightsError if a parameter is missing, unknown, or of another shape.
        """
        from qvl_core.model.load import fill

        model = cls(spec, dtype)
        fill(model, weights)
        return model

    def construct(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        pixel_values: ArrayLike | None = None,
        image_grid_thw: ArrayLike | None = None,
        pixel_values_videos: ArrayLike | None = None,
        video_grid_thw: ArrayLike | None = None,
        second_per_grid_ts: ArrayLike | None = None,
        position_ids: ArrayLike | None = None,
        mm_token_type_ids: ArrayLike | None = None,
    ) -> Tensor:
        """Give logits [B, T, V] for HF-style arguments (argument names and layouts of the HF class); zeros at pads.

        Raises DataError if the number of image or video tokens does not fit the grids.
        """
        prompt = flatten_prompt(
            self.spec,
            input_ids,
            attention_mask=attention_mask,
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
            pixel_values_videos=pixel_values_videos,
            video_grid_thw=video_grid_thw,
            second_per_grid_ts=second_per_grid_ts,
            position_ids=position_ids,
            mm_token_type_ids=mm_token_type_ids,
        )
        return self._padded(self.logits(self.hidden(self.plan(prompt.batch))), prompt)

    def plan(self, batch: Batch) -> Plan:
        """Compute what depends only on ids and grids and move the batch to the device."""
        return plan_batch(batch, self.spec, self.dtype, self.part, apart=self.runs_media_apart)

    def padded_tokens(self, batch: Batch) -> int:
        """Count the rows that the matrix products of the text layers have for a batch: its tokens, nothing is padded.

        Padding to shapes that are compiled for belongs in here.
        """
        return batch.tokens

    def hidden(self, plan: Plan, cache: AttentionCache | None = None) -> Tensor:
        """Give the last layer's output [T, D], before the final norm."""
        return self.advance(plan, None, cache)

    def advance(self, plan: Plan, arrived: Tensor | None, cache: AttentionCache | None = None) -> Tensor | None:
        """Give what this part of the model makes of what the part before it made (`stage_part.Flow`).

        `arrived` is None for the first part. Before the text layers, both are None for a batch without images.
        """
        return self.read(plan, self.see(plan, arrived), cache)

    def see(self, plan: Plan, arrived: Tensor | None) -> Tensor | None:
        """Run the vision layers of this part, and the merger if it is here; without any, give `arrived`.

        Where the plan has the features already, these.
        """
        if plan.features_UE is not None:
            return plan.features_UE
        if not plan.vision:
            return arrived
        found: list[Tensor] = []
        first = 0
        for vision in plan.vision:
            own = None if arrived is None else arrived[first : first + vision.rows]
            found.append(self.see_one(vision, arrived if len(plan.vision) == 1 else own))
            first += vision.rows
        return found[0] if len(found) == 1 else mint.cat(found, 0)

    def see_one(self, vision: VisionInputs, arrived: Tensor | None) -> Tensor:
        """Run them once: over all media together, or over one of them."""
        assert self.visual is not None, "this stage has no vision layers"
        x = vision.patches_PC if arrived is None else arrived
        return self.visual(x, vision.cos_PH, vision.sin_PH, vision.windows, vision.frames)

    def read(self, plan: Plan, x: Tensor | None, cache: AttentionCache | None = None) -> Tensor | None:
        """Run the text layers of this part; the first part of the text looks the tokens up and places features x."""
        if self.model is None:
            return x
        if self.part.embeds:
            assert self.model.embed_tokens is not None
            embedded_TD = self.model.embed_tokens(plan.ids_T)
            x = embedded_TD if x is None else kernels.merge_tokens(embedded_TD, x, plan.merge_index_T)
        return self.model(x, plan.cos_TH, plan.sin_TH, plan.segments, cache)

    def logits(self, hidden_TD: Tensor, head_DV: Tensor | None = None) -> Tensor:
        """Give logits [T, V] of the rows of `hidden` (or of any choice of its rows).

        `head_DV` is `head_weight` in the other layout, for whoever has made a copy.
        """
        assert self.model is not None, "this stage has no text layers"
        assert self.model.norm is not None, "this stage has no output head"
        normed_TD = self.model.norm(hidden_TD)
        return kernels.linear(normed_TD, self.head_weight) if head_DV is None else mint.matmul(normed_TD, head_DV)

    @property
    def head_weight(self) -> Parameter:
        """Give the output head's weight [V, D], which with tied weights is the embedding's."""
        assert self.model is not None, "this stage has no text layers"
        head = self.model.embed_tokens if self.lm_head is None else self.lm_head
        assert head is not None, "this stage has no output head"
        return head.weight

    def token_losses(self, batch: Batch | Plan) -> Tensor:
        """Give the cross-entropy of each labelled token, fp32 [L], in the order of `batch.loss_rows`.

        Without any label: one row of exactly 0 with zero gradients. The output head runs on these rows only.
        """
        plan = self.plan(batch) if isinstance(batch, Batch) else batch
        return self.losses_of(self.hidden(plan), plan)

    def losses_of(self, hidden_TD: Tensor, plan: Plan) -> Tensor:
        """Give the same from the last layer's output."""
        hidden_LD = ops.gather(hidden_TD, plan.loss_rows_L, 0)
        return self.token_loss(self.logits(hidden_LD), plan.labels_L)

    def freeze(self, components: Iterable[Component]) -> None:
        """Take the gradient from the parameters of `components`, and give it back to all others.

        In a model with adapters only they train, those of `components` excepted. With the vision tower frozen its
        backward does not run at all: the gradient stops at its last trainable cell.
        """
        frozen = frozenset(components)
        candidates = [row for row in self.table if is_factor(row.name)] or self.table
        trained = {row.name: row.component for row in candidates if row.component not in frozen}
        for name, parameter in self.parameters_and_names():
            parameter.requires_grad = name in trained
        if self.visual is not None:
            before_text = set(trained.values()) - {"text"}
            stops = "" if "vision" in before_text else "blocks" if before_text else "merger"
            self.visual.stop_after = stops

    def recompute(self, components: Iterable[Component]) -> None:
        """Compute the activations inside the layers of `components` again in the backward pass instead of keeping them.

        Of each layer only its input is kept. Chen et al. (arXiv 1604.06174), section 4.
        """
        chosen = frozenset(components)
        if self.visual is not None:
            self.visual.recompute_components = chosen
        if self.model is not None:
            self.model.recompute_layers = "text" in chosen

    def name_parameters(self) -> None:
        """Give every parameter its name in the parameter table; again after cells were replaced."""
        self.idle_engine = None
        for name, parameter in self.parameters_and_names():
            parameter.name = name

    def named_arrays(self) -> Iterator[tuple[str, NDArray[np.generic]]]:
        """Yield (name, host array) in checkpoint order; bfloat16 arrays have MindSpore's numpy dtype of that name."""
        for name, parameter in self.named_parameters().items():
            yield name, parameter.asnumpy()

    def named_parameters(self) -> dict[str, Parameter]:
        """Map each name of the parameter table that this part holds to the parameter, in the order of the table."""
        held = dict(self.parameters_and_names())
        return {row.name: held[row.name] for row in self.table if row.name in held}

    def generate(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        pixel_values: ArrayLike | None = None,
        image_grid_thw: ArrayLike | None = None,
        pixel_values_videos: ArrayLike | None = None,
        video_grid_thw: ArrayLike | None = None,
        second_per_grid_ts: ArrayLike | None = None,
        mm_token_type_ids: ArrayLike | None = None,
        **options: Any,
    ) -> Tensor:
        """Give prompt and new ids, int64 [B, T + new]; rows that stop early are filled with the pad id.

        `options` are the fields of `GenerationOptions`, which have HF's names; those left out come from the
        checkpoint's generation_config.json. Raises DataError for arrays that do not fit, InputError for an option.
        """
        from qvl_core.generate.stream import complete

        inputs = {
            "attention_mask": attention_mask,
            "pixel_values": pixel_values,
            "image_grid_thw": image_grid_thw,
            "pixel_values_videos": pixel_values_videos,
            "video_grid_thw": video_grid_thw,
            "second_per_grid_ts": second_per_grid_ts,
            "mm_token_type_ids": mm_token_type_ids,
        }
        prompt = flatten_prompt(self.spec, input_ids, **inputs)
        return Tensor(complete(self, prompt, input_ids, changed_options(self.generation_defaults, options)))

    def generate_stream(
        self, input_ids: ArrayLike, *, inputs: Mapping[str, ArrayLike] | None = None, **options: Any
    ) -> Iterator[Step]:
        """Yield the same tokens one step at a time; `inputs` are the other array arguments of `generate` by name."""
        from qvl_core.generate.stream import stream_tokens

        prompt = flatten_prompt(self.spec, input_ids, **(inputs or {}))
        return stream_tokens(self, prompt, changed_options(self.generation_defaults, options))

    def _padded(self, logits_TV: Tensor, prompt: Prompt) -> Tensor:
        rows, columns = prompt.shape
        if logits_TV.shape[0] != rows * columns:
            zero_1V = ops.zeros((1, logits_TV.shape[1]), logits_TV.dtype)
            index = np.full(rows * columns, logits_TV.shape[0], np.int32)
            index[prompt.kept_F] = np.arange(logits_TV.shape[0], dtype=np.int32)
            logits_TV = ops.gather(ops.cat((logits_TV, zero_1V), 0), Tensor(index), 0)
        return logits_TV.reshape(rows, columns, -1)
