"""The recipe's weights as a model that answers, with the processor that goes with them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer
from qvl_core.params import parameter_count
from qvl_core.weights_fit import answering_notes, open_adapter_of, open_weights

from qvl_eval.answers.job import Scheduler

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from qvl_core.generate import GenerationOptions
    from qvl_core.model import Qwen25VL
    from qvl_core.recipe import Recipe
    from qvl_core.recipe.sections import GenerationSection
    from qvl_core.weights.hf_folder import HFFolder
    from qvl_core.weights.sharded_folder import ShardedFolder
    from qvl_data.processor import Processor


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A model ready to answer. `options` are the recipe's, with the checkpoint's stop tokens."""

    model: Qwen25VL
    processor: Processor
    options: GenerationOptions

    @property
    def replicas(self) -> int:
        """Count the copies that answer: one."""
        return 1

    def scheduler(self, *, slots: int, max_tokens: int) -> Scheduler:
        """Give a new scheduler of the model."""
        from qvl_core.generate.scheduler import Scheduler as CoreScheduler

        return CoreScheduler(self.model, slots=slots, max_tokens=max_tokens)

    def when_ended(self, call: Callable[[], None]) -> None:
        """Do nothing: the model ends with this process."""


def open_for_answers(recipe: Recipe) -> HFFolder | ShardedFolder:
    """Open the recipe's weights to answer with them, in whatever layout they are.

    Raises WeightsError, for what is wrong with the adapter on top as well.
    """
    return open_weights(recipe, use="answers")


def weights_digest(recipe: Recipe) -> str:
    """Give one hash for the model that answers: the folder of its weights and the adapter on top.

    Raises WeightsError.
    """
    from qvl_eval.protocol import model_digest

    digest, adapter = model_digest(open_for_answers(recipe)), open_adapter_of(recipe)
    return digest if adapter is None else hashlib.sha256(f"{digest} {adapter.identity}".encode()).hexdigest()


def note_weights(recipe: Recipe) -> None:
    """Say on stderr what is done with the weights while they are loaded; nothing where they are taken as they are."""
    for note in answering_notes(recipe):
        typer.echo(f"qvl: {note}", err=True)


def load_model(recipe: Recipe, *, reshard: bool = False) -> LoadedModel:
    """Load processor and model of the recipe's weights, one process. Raises WeightsError, NotInstalledError.

    A sharded folder may have any layout, with `reshard` or without.
    """
    from qvl_core import device

    weights = open_for_answers(recipe)
    # Before the model: a broken tokenizer or processor is told in a second, not after the weights are read.
    processor = processor_of(recipe, weights)
    note_weights(recipe)
    device.prepare(recipe.launch.device)
    device.confine_small_model(parameter_count(recipe.spec))
    device.require_mindspore()
    from qvl_core.generate import read_generation_config
    from qvl_core.model import Qwen25VL

    # One process, which is the first and only rank of its layout.
    model = Qwen25VL.from_spec(recipe.spec, local_weights(recipe, 0, 0), dtype=recipe.model.dtype or "float32")
    model.generation_defaults = read_generation_config(weights.path)
    model.set_train(False)
    return LoadedModel(model=model, processor=processor, options=answering_options(recipe, weights))


def answering_options(recipe: Recipe, weights: HFFolder | ShardedFolder) -> GenerationOptions:
    """Give the recipe's options with the stop tokens of the weights' folder."""
    from qvl_core.generate import changed_options, read_generation_config

    return changed_options(read_generation_config(weights.path), generation_options(recipe.generation))


def local_weights(recipe: Recipe, pp: int, tp: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield name and values of what a rank of the recipe's layout holds of its weights, with the adapter merged in."""
    from qvl_core.weights.local_tensors import local_values
    from qvl_core.weights.lora import merged_values
    from qvl_core.weights.whole_tensors import whole_tensors_of

    source, adapter = whole_tensors_of(open_for_answers(recipe)), open_adapter_of(recipe)
    if adapter is None:
        yield from local_values(source, recipe.parallel, pp, tp)
    else:
        yield from merged_values(source, adapter, recipe.parallel, pp, tp)


def processor_of(recipe: Recipe, weights: HFFolder | ShardedFolder) -> Processor:
    """Read the processor of a weights folder under the recipe's limits of pixels and frames. Raises WeightsError."""
    from qvl_data.processor import load_processor

    image = recipe.data.image
    return load_processor(
        weights.path, recipe.spec, min_pixels=image.min_pixels, max_pixels=image.max_pixels, video=recipe.data.video
    )


def generation_options(generation: GenerationSection) -> dict[str, Any]:
    """Give the recipe's settings in HF's names; temperature 0 is greedy, and greedy leaves out what only samples."""
    options: dict[str, Any] = {
        "max_new_tokens": generation.max_new_tokens,
        "repetition_penalty": generation.repetition_penalty,
        "do_sample": generation.temperature > 0,
    }
    if generation.temperature > 0:
        options |= {
            "temperature": generation.temperature,
            "top_k": generation.top_k,
            "top_p": generation.top_p,
            "seed": generation.seed,
        }
    return options
