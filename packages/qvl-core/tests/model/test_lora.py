"""Adapters: the numbers that the merged model gives, gradients by the chain rule, masks that follow from their key."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="the model needs mindspore")

import mindspore as ms
from mindspore import Tensor
from numpy.typing import NDArray
from qvl_core.batch import IGNORE, Batch
from qvl_core.layout import Layout
from qvl_core.lora_table import COMPONENTS, TARGETS, Lora, adapter_table, factor_names
from qvl_core.model import Qwen25VL, flatten_prompt
from qvl_core.model.initialize import initial_factor
from qvl_core.model.lora import AdapterDropout
from qvl_core.parallel.mesh import Coordinate
from qvl_core.parallel.pipeline import Pipeline
from qvl_core.parallel.single import SingleWorld
from qvl_core.parallel.stage import build_stage, initial_local_factors
from qvl_core.params import Component, parameter_table
from qvl_core.weights.sharding import cut
from small_models import TIED, UNTIED, Arrays, image_prompt, lively_weights, text_prompt

ALL = tuple(dict.fromkeys(name for component in COMPONENTS for name in TARGETS[component]))
FactorArrays = dict[str, NDArray[np.float32]]


def settings(components: Collection[Component] = COMPONENTS, dropout: float = 0.0) -> Lora:
    return Lora(rank=3, alpha=5.0, dropout=dropout, components=tuple(components), targets=ALL)


def factors_of(lora: Lora) -> FactorArrays:
    """Give factors of which none is zero."""
    random = np.random.default_rng(4)
    return {row.name: 0.1 * random.standard_normal(row.shape, np.float32) for row in adapter_table(TIED, lora)}


def labelled(arrays: Arrays) -> Batch:
    inputs = dict(arrays)
    batch = flatten_prompt(TIED, inputs.pop("input_ids"), **inputs).batch
    return dataclasses.replace(batch, labels=np.append(batch.input_ids[1:], IGNORE).astype(np.int32))


BATCHES = [labelled(image_prompt(TIED)), labelled(text_prompt(6))]
WEIGHTS = [np.full(len(batch.loss_rows), 0.05, np.float32) for batch in BATCHES]
WORLD = SingleWorld(Layout.single(TIED))


def adapted(lora: Lora, *, seed: int = 0) -> Qwen25VL:
    arrays = [*lively_weights(TIED), *factors_of(lora).items()]
    return build_stage(TIED, WORLD, arrays, lora=lora, seed=seed)


def gradients(model: Qwen25VL, *, recompute: str = "none", step: int = 1) -> tuple[float, FactorArrays]:
    made = Pipeline(model, WORLD, recompute=recompute)  # type: ignore[arg-type]
    made.step = step
    loss, found = made.gradients(BATCHES, WEIGHTS)
    return loss, {parameter.name: gradient.asnumpy() for parameter, gradient in zip(made.trainable, found, strict=True)}


def merged(lora: Lora) -> Qwen25VL:
    """Give the model with the products added to its weights, in fp64."""
    factors = factors_of(lora)
    arrays = dict(lively_weights(TIED))
    for row in parameter_table(TIED):
        if lora.adapts(row):
            a, b = (factors[name].astype(np.float64) for name in factor_names(row.name))
            arrays[row.name] = (arrays[row.name] + lora.scale * b @ a).astype(np.float32)
    return Qwen25VL.from_spec(TIED, arrays.items())


def test_new_adapters_change_nothing() -> None:
    lora = settings()
    start = initial_local_factors(TIED, lora, 1, WORLD.layout, WORLD.place)
    model = build_stage(TIED, WORLD, [*lively_weights(TIED), *start], lora=lora)
    plain = Qwen25VL.from_spec(TIED, lively_weights(TIED))
    for arrays in (image_prompt(TIED), text_prompt(6)):
        assert (model(**arrays).asnumpy() == plain(**arrays).asnumpy()).all()


def test_logits_are_those_of_the_merged_model() -> None:
    lora = settings()
    found = adapted(lora)(**image_prompt(TIED)).asnumpy()
    expected = merged(lora)(**image_prompt(TIED)).asnumpy()
    plain = Qwen25VL.from_spec(TIED, lively_weights(TIED))(**image_prompt(TIED)).asnumpy()
    # fp32 through four blocks; the adapters' effect is four orders of magnitude above that.
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.abs(found - plain).max() > 0.1


@pytest.mark.parametrize("components", [COMPONENTS, ("text",), ("vision",), ("merger",)], ids=" ".join)
def test_gradients_are_those_of_the_merged_weights_by_the_chain_rule(components: tuple[Component, ...]) -> None:
    lora = settings(components)
    factors = factors_of(lora)
    loss, found = gradients(adapted(lora))
    whole_loss, whole = gradients(merged(lora))
    assert loss == pytest.approx(whole_loss, rel=1e-6)
    assert list(found) == [row.name for row in adapter_table(TIED, lora)]
    for row in parameter_table(TIED):
        if not lora.adapts(row):
            continue
        (name_a, name_b), of_weight = factor_names(row.name), whole[row.name].astype(np.float64)
        for name, wanted in (
            (name_a, lora.scale * factors[name_b].T @ of_weight),
            (name_b, lora.scale * of_weight @ factors[name_a].T),
        ):
            # fp32, and the merged weights are rounded once: some 1e-6 of the norm.
            assert np.linalg.norm(found[name] - wanted) <= 1e-5 * np.linalg.norm(wanted), name


def test_only_adapters_train_and_freezing_takes_a_component_of_them() -> None:
    model = adapted(settings())
    trained = {parameter.name for parameter in model.trainable_params()}
    assert trained == {row.name for row in adapter_table(TIED, settings())}
    assert model.visual is not None
    assert model.visual.stop_after == ""
    model.freeze(("vision",))
    assert {parameter.name for parameter in model.trainable_params()} == {
        row.name for row in adapter_table(TIED, settings(("merger", "text")))
    }
    assert model.visual.stop_after == "blocks"


@pytest.mark.parametrize(
    ("components", "stops"), [(("text",), "merger"), (("merger",), "blocks"), (("vision", "text"), "")], ids=str
)
def test_the_vision_tower_is_not_differentiated_below_its_first_adapter(
    components: tuple[Component, ...], stops: str
) -> None:
    model = adapted(settings(components))
    assert model.visual is not None
    assert model.visual.stop_after == stops


@pytest.mark.parametrize("recompute", ["full", "text"])
def test_a_recomputed_layer_drops_the_same_elements(recompute: str) -> None:
    lora = settings(dropout=0.3)
    plain_loss, plain = gradients(adapted(lora))
    loss, found = gradients(adapted(lora), recompute=recompute)
    assert loss == plain_loss
    for name, array in plain.items():
        # The same operations in the same order.
        assert (found[name] == array).all(), name


def test_dropout_depends_on_seed_and_step_and_is_off_in_validation() -> None:
    lora = settings(dropout=0.3)
    model = adapted(lora, seed=1)
    first = gradients(model)[0]
    assert gradients(model)[0] == first
    assert gradients(model, step=2)[0] != first
    assert gradients(adapted(lora, seed=2))[0] != first
    losses = Pipeline(model, WORLD).losses(BATCHES[0])
    without = Pipeline(adapted(settings()), WORLD).losses(BATCHES[0])
    assert losses is not None
    assert (losses == without).all()


def test_a_cut_input_drops_its_columns_of_the_whole_mask() -> None:
    dropout = AdapterDropout(0.25, 7)
    dropout.begin(3, 1)
    x = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32)
    whole = dropout(Tensor(x), "name", first=0, width=8).asnumpy()
    part = dropout(Tensor(x[:, 2:6]), "name", first=2, width=8).asnumpy()
    assert (part == whole[:, 2:6]).all()
    kept = whole != 0
    assert (whole[kept] == x[kept]).all()
    assert dropout.factor == 1 / 0.75
    # 4000 elements: five standard deviations are 0.034.
    assert abs(kept.mean() - 0.75) < 0.035
    assert (dropout(Tensor(x), "other", first=0, width=8).asnumpy() != whole).any()
    dropout.begin(3, 2)
    assert (dropout(Tensor(x), "name", first=0, width=8).asnumpy() != whole).any()
    dropout.end()
    assert dropout.factor == 1.0
    assert (dropout(Tensor(x), "name", first=0, width=8).asnumpy() == x).all()


def test_no_dropout_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    dropout = AdapterDropout(0.0, 7)
    dropout.begin(1, 0)
    monkeypatch.setattr(AdapterDropout, "kept", None)
    x = Tensor(np.ones((2, 3), np.float32))
    assert dropout(x, "name", first=0, width=3) is x


def test_factors_begin_as_in_peft_and_alike_in_every_layout() -> None:
    lora = settings()
    rows = adapter_table(UNTIED, lora)
    for row in rows:
        values = initial_factor(row, 5)
        if row.name.endswith("lora_B.weight"):
            assert not values.any()
            continue
        bound = 1 / np.sqrt(row.shape[1])
        assert (np.abs(values) <= bound).all()
        assert np.abs(values).max() > 0.8 * bound
        assert (values != initial_factor(row, 6)).any()
    layout = Layout(tp=2, pp=2, vision_stages=(3, 0), text_stages=(1, 2))
    held = {row.name: row for row in adapter_table(UNTIED, lora, layout)}
    for pp in range(2):
        for tp in range(2):
            place = Coordinate(pp=pp, dp=0, tp=tp)
            for name, array in initial_local_factors(UNTIED, lora, 5, layout, place):
                row = held[name]
                assert pp in row.stages
                assert (array == cut(initial_factor(row, 5), row.shard, tp=2, rank=tp)).all()


def test_adapters_are_fp32_in_a_bfloat16_model() -> None:
    lora = settings()
    arrays = [*lively_weights(TIED), *factors_of(lora).items()]
    model = build_stage(TIED, WORLD, arrays, "bfloat16", lora=lora)
    factors = {row.name for row in adapter_table(TIED, lora)}
    for name, parameter in model.named_parameters().items():
        assert parameter.dtype == (ms.float32 if name in factors else ms.bfloat16), name
