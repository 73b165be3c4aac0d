"""The model has exactly the parameter table."""

from __future__ import annotations

import pytest

pytest.importorskip("mindspore", reason="the model needs mindspore")

import mindspore as ms
from qvl_core.model import Qwen25VL
from qvl_core.params import parameter_table
from qvl_core.specs.load import load_spec
from qvl_core.specs.model_spec import ModelSpec
from small_models import TIED, UNTIED


@pytest.mark.parametrize("spec", [TIED, UNTIED, load_spec("qwen2.5-vl-tiny")], ids=lambda spec: spec.name)
def test_names_and_shapes_are_those_of_the_table(spec: ModelSpec) -> None:
    table = {row.name: row.shape for row in parameter_table(spec)}
    model = Qwen25VL(spec)
    assert {name: tuple(parameter.shape) for name, parameter in model.parameters_and_names()} == table
    assert all(parameter.name == name for name, parameter in model.parameters_and_names())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_parameter_has_the_asked_dtype(dtype: str) -> None:
    parameters = Qwen25VL(TIED, dtype).get_parameters()
    assert {parameter.dtype for parameter in parameters} == {getattr(ms, dtype)}


def test_refuses_an_unknown_dtype() -> None:
    with pytest.raises(ValueError, match="float64"):
        Qwen25VL(TIED, "float64")


def test_freezing_takes_components_from_the_trainable_parameters() -> None:
    model = Qwen25VL(TIED)
    component_of = {row.name: row.component for row in parameter_table(TIED)}
    model.freeze(["vision", "merger"])
    assert {component_of[parameter.name] for parameter in model.trainable_params()} == {"text"}
    model.freeze(["text"])
    assert {component_of[parameter.name] for parameter in model.trainable_params()} == {"vision", "merger"}
    model.freeze([])
    assert len(model.trainable_params()) == len(component_of)
