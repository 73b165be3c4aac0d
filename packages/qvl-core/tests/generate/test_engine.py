"""The engine beside training: weights that change, dropout, what is kept and what is freed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="the model needs mindspore")

from mindspore import Parameter, Tensor, ops
from qvl_core.answer_sizes import BLOCK
from qvl_core.batch import Batch
from qvl_core.errors import InputError
from qvl_core.generate import GenerationOptions
from qvl_core.generate.answer_all import answer_all
from qvl_core.generate.engine import Engine, borrowed_engine
from qvl_core.generate.head_copy import HeadCopy
from qvl_core.generate.request import Request
from qvl_core.generate.scheduler import Scheduler
from qvl_core.layout import Layout
from qvl_core.lora_table import Lora, adapter_table
from qvl_core.model import Qwen25VL, flatten_prompt
from qvl_core.model.load import fill
from qvl_core.parallel.pipeline import Pipeline
from qvl_core.parallel.single import SingleWorld
from qvl_core.parallel.stage import build_stage
from small_models import TIED, UNTIED, image_prompt, lively_model, lively_weights, text_prompt

WORLD = SingleWorld(Layout.single(TIED))
GREEDY = GenerationOptions(max_new_tokens=8)


def own_model(seed: int = 1) -> Qwen25VL:
    return Qwen25VL.from_spec(TIED, lively_weights(TIED, seed=seed))


def request(name: str = "one", options: GenerationOptions = GREEDY) -> Request:
    return Request(prompt=flatten_prompt(TIED, **image_prompt(TIED)).batch, options=options, request_id=name)


def answer(scheduler: Scheduler, one: Request) -> list[int]:
    scheduler.submit(one)
    found = []
    while not scheduler.is_idle:
        found += [event.token for event in scheduler.step()]
    return found


def expected_of(seed: int) -> list[int]:
    """Give the answer of a model that has nothing compiled or copied."""
    return answer(Scheduler(own_model(seed), slots=1, max_tokens=BLOCK), request())


@pytest.mark.parametrize("change", ["set_data", "assign"])
def test_weights_that_change_between_requests_reach_what_was_compiled_and_copied(change: str) -> None:
    model = own_model()
    engine = Engine(model, 1, BLOCK, patience=0)
    scheduler = Scheduler(model, slots=1, max_tokens=BLOCK, engine=engine)
    before = answer(scheduler, request())
    assert answer(scheduler, request()) == before == expected_of(1)
    if change == "set_data":
        fill(model, lively_weights(TIED, seed=2))
    else:
        held = dict(model.parameters_and_names())
        for name, array in lively_weights(TIED, seed=2):
            ops.assign(held[name], Tensor(array))
    assert answer(scheduler, request()) == expected_of(2) != before


def test_a_change_of_one_number_of_the_head_is_seen() -> None:
    model = own_model()
    engine = Engine(model, 1, BLOCK, patience=0)
    scheduler = Scheduler(model, slots=1, max_tokens=BLOCK, engine=engine)
    answer(scheduler, request())
    copied = engine._head
    assert copied is not None
    assert copied.is_of(model.head_weight)
    changed = model.head_weight.asnumpy().copy()
    changed[7, 3] = np.nextafter(changed[7, 3], np.float32(np.inf))
    model.head_weight.set_data(Tensor(changed))
    assert not copied.is_of(model.head_weight)


def test_a_model_that_generated_is_freed_by_the_collector() -> None:
    model = own_model()
    model.generate(**text_prompt(4), max_new_tokens=3)
    assert model.idle_engine is not None
    with borrowed_engine(model, 1, BLOCK) as engine:
        answer(Scheduler(model, slots=1, max_tokens=BLOCK, engine=engine), request())
    weight, held = weakref.ref(model.head_weight), weakref.ref(model)
    del model, engine
    # MindSpore's parameters are cycles of their own: none goes with its last name.
    gc.collect()
    assert held() is None
    assert weight() is None


def test_a_borrowed_engine_is_found_again_with_what_it_compiled_and_holds_no_memory_between() -> None:
    model = own_model()
    model.idle_engine = engine = Engine(model, 1, BLOCK, patience=0)
    found = [answer_all(model, [request()], slots=1, max_tokens=BLOCK) for _ in range(2)]
    assert found[0] == found[1] == {"one": expected_of(1)}
    assert model.idle_engine is engine
    assert len(engine._sizes) == 1
    assert engine._head is None
    # One row for keys and one for values is what a parameter cannot do without.
    assert engine.cache.held_bytes == 2 * TIED.text.num_layers * TIED.text.head_dim * 4


def test_an_engine_that_failed_is_not_kept() -> None:
    model = own_model()
    with pytest.raises(ZeroDivisionError), borrowed_engine(model, 1, BLOCK):
        raise ZeroDivisionError
    assert model.idle_engine is None
    assert answer_all(model, [request()], slots=1, max_tokens=BLOCK) == {"one": expected_of(1)}


def test_two_models_of_one_shape_answer_in_turn_each_with_its_own_weights() -> None:
    models = {seed: own_model(seed) for seed in (1, 2)}
    schedulers = {
        seed: Scheduler(model, slots=1, max_tokens=BLOCK, engine=Engine(model, 1, BLOCK, patience=0))
        for seed, model in models.items()
    }
    for seed in (1, 2, 1, 2):
        assert answer(schedulers[seed], request()) == expected_of(seed)


def test_recomputation_and_frozen_parts_make_no_difference() -> None:
    model = own_model()
    model.set_train(True)
    model.recompute(["vision", "merger", "text"])
    model.freeze(["vision"])
    assert answer_all(model, [request()], slots=1, max_tokens=BLOCK) == {"one": expected_of(1)}


def adapted() -> Qwen25VL:
    lora = Lora(components=("text",), targets=("q_proj", "v_proj", "down_proj"), rank=2, alpha=8.0, dropout=0.5)
    random = np.random.default_rng(3)
    factors = {row.name: random.standard_normal(row.shape, np.float32) for row in adapter_table(TIED, lora)}
    return build_stage(TIED, WORLD, [*lively_weights(TIED), *factors.items()], lora=lora, seed=0)


def test_the_dropout_of_adapters_does_not_reach_answers() -> None:
    model = adapted()
    expected = answer_all(model, [request()], slots=1, max_tokens=BLOCK)
    assert model.dropout is not None
    model.dropout.begin(3, 0)
    assert answer_all(model, [request()], slots=1, max_tokens=BLOCK) == expected
    assert expected != {"one": expected_of(1)}, "the adapters change nothing here"


@pytest.mark.parametrize("make", [own_model, adapted])
def test_training_goes_on_bit_for_bit_after_answers_between_its_steps(make: Callable[[], Qwen25VL]) -> None:
    plain, asked = train(make(), asks=False), train(make(), asks=True)
    assert plain.keys() == asked.keys()
    for name, array in plain.items():
        np.testing.assert_array_equal(asked[name], array, err_msg=name)


def train(model: Qwen25VL, *, asks: bool) -> dict[str, np.ndarray]:
    """Give the weights after three updates; with answers asked for before each."""
    model.freeze(())
    pipeline = Pipeline(model, WORLD)
    arrays = flatten_prompt(TIED, **image_prompt(TIED)).batch
    batch = Batch(
        input_ids=arrays.input_ids,
        position_ids=arrays.position_ids,
        sequence_lengths=arrays.sequence_lengths,
        labels=np.where(arrays.input_ids < 90, arrays.input_ids, -100).astype(np.int32),
        patches=arrays.patches,
        grids=arrays.grids,
    )
    weights = [np.ones(int((batch.labels != -100).sum()), np.float32) / 7]
    answers = []
    for step in range(1, 4):
        if asks:
            answers.append(answer_all(model, [request()], slots=1, max_tokens=BLOCK)["one"])
            assert answers[-1] == alone(model)
        pipeline.step = step
        _, gradients = pipeline.gradients([batch], weights)
        for parameter, gradient in zip(pipeline.trainable, gradients, strict=True):
            ops.assign(parameter, parameter - 0.1 * gradient)
    assert not asks or answers[0] != answers[-1], "training changes no answer here"
    return {name: array.copy() for name, array in model.named_arrays()}


def alone(model: Qwen25VL) -> list[int]:
    """Give the answer by the whole model for every token."""
    arrays = image_prompt(TIED)
    for _ in range(GREEDY.max_new_tokens):
        following = model(**arrays).asnumpy()[:, -1].argmax(axis=-1)[:, None]
        arrays["input_ids"] = np.concatenate((arrays["input_ids"], following), axis=1)
    return arrays["input_ids"][0, -GREEDY.max_new_tokens :].tolist()


def test_refuses_bfloat16_on_cpu_and_takes_float16() -> None:
    with pytest.raises(InputError, match=r"dtype\n.*bfloat16.*\n.*float32"):
        Qwen25VL.from_spec(TIED, lively_weights(TIED), "bfloat16").generate(**text_prompt(4))
    half = Qwen25VL.from_spec(TIED, lively_weights(TIED), "float16")
    assert half.generate(**text_prompt(4), max_new_tokens=3).shape == (1, 7)


def test_other_worlds_have_engines_of_their_own() -> None:
    model = own_model()
    with borrowed_engine(model, 1, BLOCK) as first:
        pass
    with borrowed_engine(model, 1, BLOCK, world=WORLD) as second:
        pass
    assert (first is second, model.idle_engine is second) == (False, True)


def test_sums_tell_weights_apart_that_hold_the_same_numbers_elsewhere() -> None:
    model = lively_model(UNTIED)
    held = model.head_weight.asnumpy()
    copied = HeadCopy(model.head_weight)
    assert copied.is_of(Parameter(Tensor(held.copy())))
    assert not copied.is_of(Parameter(Tensor(held[::-1].copy())))
    assert not copied.is_of(Parameter(Tensor(held[:, ::-1].copy())))
