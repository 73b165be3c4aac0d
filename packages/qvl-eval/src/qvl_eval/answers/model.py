"""The recipe's weights as a model that answers, with the processor that goes with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qvl_core.errors import Problem, RecipeError
from qvl_core.params import parameter_count
from qvl_core.weights_fit import open_weights

if TYPE_CHECKING:
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


def require_one_process(recipe: Recipe, what: str) -> None:
    """Raise RecipeError for a layout of several processes."""
    if recipe.parallel.world_size > 1:
        message = f"the layout has {recipe.parallel.world_size} processes; this version of {what} runs in one"
        fix = "--set layout.tp=1 --set layout.pp=1 --set layout.dp=1"
        raise RecipeError(Problem(where=recipe.path, key="layout", message=message, fix=fix))


def load_model(recipe: Recipe, *, reshard: bool = False) -> LoadedModel:
    """Load processor and model of the recipe's weights, one process. Raises WeightsError, NotInstalledError.

    With `reshard` a sharded folder may have another layout.
    """
    from qvl_core import device

    weights = open_weights(recipe, reshard=reshard)
    # Before the model: a broken tokenizer or processor is told in a second, not after the weights are read.
    processor = processor_of(recipe, weights)
    device.prepare(recipe.launch.device)
    device.confine_small_model(parameter_count(recipe.spec))
    device.require_mindspore()
    model = _load_weights(recipe, weights)
    model.set_train(False)
    from qvl_core.generate import changed_options

    options = changed_options(model.generation_defaults, generation_options(recipe.generation))
    return LoadedModel(model=model, processor=processor, options=options)


def processor_of(recipe: Recipe, weights: HFFolder | ShardedFolder) -> Processor:
    """Read the processor of a weights folder under the recipe's limits of pixels and frames. Raises WeightsError."""
    from qvl_data.processor import load_processor

    image = recipe.data.image
    return load_processor(
        weights.path, recipe.spec, min_pixels=image.min_pixels, max_pixels=image.max_pixels, video=recipe.data.video
    )


def _load_weights(recipe: Recipe, weights: HFFolder | ShardedFolder) -> Qwen25VL:
    from qvl_core.generate import read_generation_config
    from qvl_core.model import Qwen25VL
    from qvl_core.weights.local_tensors import local_values
    from qvl_core.weights.whole_tensors import whole_tensors_of

    # One process, which is the first and only rank of its layout.
    arrays = local_values(whole_tensors_of(weights), recipe.parallel, 0, 0)
    model = Qwen25VL.from_spec(recipe.spec, arrays, dtype=recipe.model.dtype or "float32")
    model.generation_defaults = read_generation_config(weights.path)
    return model


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
