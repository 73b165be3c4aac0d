"""Fill a model with weights: from an HF folder, or from any (name, array) pairs.

The pairs of a recipe's weights, whatever the folder, are those of `weights.local_tensors`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from mindspore import Parameter, Tensor
from numpy.typing import NDArray

from qvl_core.errors import Problem, WeightsError
from qvl_core.generate.options import read_generation_config
from qvl_core.input_file import printable
from qvl_core.layout import Layout
from qvl_core.model.qwen25vl import Qwen25VL
from qvl_core.weights.hf_folder import open_hf_folder
from qvl_core.weights.local_tensors import local_values
from qvl_core.weights.manifest import MANIFEST_NAME
from qvl_core.weights.whole_tensors import whole_tensors_of

# Problems listed by name before the rest is only counted.
MOST_NAMED = 10


def load_pretrained(hf_dir: str | Path, dtype: str) -> Qwen25VL:
    """Give the model of an HF folder. Raises WeightsError before anything is allocated if the folder does not fit."""
    if (Path(hf_dir) / MANIFEST_NAME).is_file():
        message = "is a sharded folder or a training checkpoint; from_pretrained reads HF folders"
        fix = f"qvl convert export --sharded {hf_dir} --out {str(hf_dir).rstrip('/')}-hf"
        raise WeightsError(Problem(where=printable(str(hf_dir)), message=message, fix=fix))
    source = whole_tensors_of(open_hf_folder(hf_dir))
    model = Qwen25VL(source.spec, dtype)
    fill(model, local_values(source, Layout.single(source.spec), 0, 0))
    model.generation_defaults = read_generation_config(Path(hf_dir))
    return model


def fill(model: Qwen25VL, weights: Iterable[tuple[str, NDArray[np.generic]]]) -> None:
    """Set every parameter, cast to the model's dtype. Raises WeightsError with all that does not fit, then sets none.

    The arrays are taken one by one, so that a generator never holds more than one tensor.
    """
    parameters = model.named_parameters()
    missing = set(parameters)
    problems: list[Problem] = []
    for name, array in weights:
        if name not in parameters:
            problems.append(_problem(name, "is not a weight of this model"))
        elif tuple(array.shape) != tuple(parameters[name].shape):
            wanted = list(parameters[name].shape)
            problems.append(_problem(name, f"has shape {list(array.shape)}; {model.spec.name} needs {wanted}"))
        elif name not in missing:
            problems.append(_problem(name, "is given twice"))
        else:
            set_parameter(parameters[name], array)
        missing.discard(name)
    problems += [_problem(name, "is missing") for name in sorted(missing)]
    if problems:
        raise WeightsError(_shortened(problems))


def set_parameter(parameter: Parameter, array: NDArray[np.generic]) -> None:
    """Give a parameter new values, cast to its dtype. The array is copied; its dtype may be MindSpore's bfloat16."""
    value = Tensor(np.ascontiguousarray(array))
    # set_data, not assign: assigning to a bfloat16 parameter has no CPU kernel.
    parameter.set_data(value if value.dtype == parameter.dtype else value.astype(parameter.dtype))  # trap: not compiled


def _problem(name: str, message: str) -> Problem:
    return Problem(where="weights", key=name, message=message)


def _shortened(problems: list[Problem]) -> list[Problem]:
    if len(problems) <= MOST_NAMED:
        return problems
    rest = Problem(where="weights", message=f"and {len(problems) - MOST_NAMED} more")
    return [*problems[:MOST_NAMED], rest]
