"""Questions to answers: prompts are padded to a batch, the model generates, the new tokens become text.

The model is anything with `generate` in HF's argument names, which is what `qvl_core.Qwen25VL` is.

Legend: B prompts, T tokens of the longest prompt, P patches, N images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qvl_eval.answers.model import generation_options, load_model

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe
    from qvl_data.processor import Processor
    from qvl_data.samples import Sample


class Generator(Protocol):
    """The part of the model that is needed here."""

    def generate(self, input_ids: NDArray[np.int64], **options: Any) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The text of an answer, and how many tokens were generated for it, the stop token included."""

    text: str
    new_tokens: int


@dataclass(frozen=True, kw_only=True)
class Answerer:
    """A loaded model with its processor. `options` are those of `generate`; the ids are the checkpoint's."""

    model: Generator
    processor: Processor
    options: Mapping[str, Any]
    stop_ids: tuple[int, ...]
    pad_id: int

    def answer(self, prompts: Sequence[Sample]) -> list[Answer]:
        """Answer the prompts together, in their order."""
        inputs = pad_left(prompts, pad_id=self.pad_id)
        output = as_array(self.model.generate(**inputs, **self.options))
        return [self._answer(ids) for ids in output[:, inputs["input_ids"].shape[1] :]]

    def _answer(self, ids: NDArray[np.int64]) -> Answer:
        # A row that stopped early is filled up with padding; its answer ends at its first stop token.
        stops = np.flatnonzero(np.isin(ids, self.stop_ids))
        end = int(stops[0]) if len(stops) else len(ids)
        text = self.processor.chat.decode(ids[:end]).strip()
        return Answer(text=text, new_tokens=min(end + 1, len(ids)))


def load_answerer(recipe: Recipe, *, reshard: bool = False) -> Answerer:
    """Load processor and model of the recipe's weights, one process. Raises WeightsError, NotInstalledError.

    With `reshard` a sharded folder may have another layout.
    """
    loaded = load_model(recipe, reshard=reshard)
    return Answerer(
        model=loaded.model,
        processor=loaded.processor,
        options=generation_options(recipe.generation),
        stop_ids=loaded.model.generation_defaults.stop_ids,
        pad_id=loaded.model.generation_defaults.pad_id,
    )


def pad_left(prompts: Sequence[Sample], *, pad_id: int) -> dict[str, NDArray[Any]]:
    """Give HF-style arguments: input_ids and attention_mask int64 [B, T], patches [P, C] and grids [N, 3] if any."""
    longest = max(len(prompt.input_ids) for prompt in prompts)
    ids_BT = np.full((len(prompts), longest), pad_id, np.int64)
    mask_BT = np.zeros((len(prompts), longest), np.int64)
    for row, prompt in enumerate(prompts):
        start = longest - len(prompt.input_ids)
        ids_BT[row, start:] = prompt.input_ids
        mask_BT[row, start:] = 1
    inputs: dict[str, NDArray[Any]] = {"input_ids": ids_BT, "attention_mask": mask_BT}
    grids = np.concatenate([prompt.grids for prompt in prompts])
    if len(grids):
        inputs["pixel_values"] = np.concatenate([prompt.patches for prompt in prompts])
        inputs["image_grid_thw"] = grids
    return inputs


def as_array(output: Any) -> NDArray[np.int64]:
    """Give a numpy array of a MindSpore tensor or of an array."""
    array = output.asnumpy() if hasattr(output, "asnumpy") else output
    return np.asarray(array, np.int64)
