"""Generation: the cache changes nothing, neighbours change nothing, stops and padding are where they should be."""

from __future__ import annotations

from threading import Thread
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="the model needs mindspore")

from qvl_core.answer_sizes import BLOCK
from qvl_core.errors import InputError
from qvl_core.model import Qwen25VL
from qvl_core.model.load import fill
from qvl_core.specs.model_spec import ModelSpec
from small_models import (
    SPECS,
    TIED,
    UNTIED,
    Arrays,
    image_prompt,
    lively_model,
    lively_weights,
    pad_together,
    text_prompt,
)

by_spec = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


def generate(spec: ModelSpec, arrays: Arrays, **options: Any) -> np.ndarray:
    return lively_model(spec).generate(**arrays, **options).asnumpy()


def generate_without_cache(model: Qwen25VL, arrays: Arrays, count: int) -> np.ndarray:
    """Run the whole model again for every token."""
    arrays = {"attention_mask": np.ones_like(arrays["input_ids"]), **arrays}
    for _ in range(count):
        following = model(**arrays).asnumpy()[:, -1].argmax(axis=-1)[:, None]
        arrays["input_ids"] = np.concatenate((arrays["input_ids"], following), axis=1)
        arrays["attention_mask"] = np.concatenate((arrays["attention_mask"], np.ones_like(following)), axis=1)
    return arrays["input_ids"]


@by_spec
def test_the_cache_gives_the_tokens_of_the_whole_model(spec: ModelSpec) -> None:
    arrays = pad_together([image_prompt(spec), text_prompt(6)])
    np.testing.assert_array_equal(
        generate(spec, arrays, max_new_tokens=12), generate_without_cache(lively_model(spec), arrays, 12)
    )


def test_the_cache_grows_without_changing_the_tokens() -> None:
    arrays = text_prompt(BLOCK - 3)
    result = generate(TIED, arrays, max_new_tokens=8)
    np.testing.assert_array_equal(result, generate_without_cache(lively_model(TIED), arrays, 8))


@by_spec
def test_a_row_of_a_batch_has_the_tokens_of_the_row_alone(spec: ModelSpec) -> None:
    rows = [image_prompt(spec), text_prompt(6), image_prompt(spec, 2, 5, text=1, seed=3)]
    for options in ({}, {"repetition_penalty": 1.3}):
        together = generate(spec, pad_together(rows), max_new_tokens=10, **options)
        for number, row in enumerate(rows):
            alone = generate(spec, row, max_new_tokens=10, **options)
            np.testing.assert_array_equal(together[number, -10:], alone[0, -10:])


def test_sampling_repeats_with_the_seed_and_differs_without() -> None:
    options = {"do_sample": True, "temperature": 1.5, "top_k": 20, "max_new_tokens": 16}
    rows = pad_together([text_prompt(4), text_prompt(7, seed=2)])
    first, again, other = (generate(TIED, rows, seed=seed, **options) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    # The first row draws from stream 0 alone or in company.
    np.testing.assert_array_equal(generate(TIED, text_prompt(4), seed=1, **options)[0, -16:], first[0, -16:])


def test_a_stopped_row_is_padded_and_the_others_go_on() -> None:
    rows = pad_together([text_prompt(4), text_prompt(7, seed=2)])
    free = generate(UNTIED, rows, max_new_tokens=12)[:, 7:]
    stop = int(next(token for token in free[0, 3:] if token not in free[1]))
    at = int(np.flatnonzero(free[0] == stop)[0])
    result = generate(UNTIED, rows, max_new_tokens=12, eos_token_id=stop, pad_token_id=99)[:, 7:]
    np.testing.assert_array_equal(result[0], [*free[0, : at + 1], *[99] * (11 - at)])
    np.testing.assert_array_equal(result[1], free[1])


def test_generation_ends_when_every_row_has_stopped() -> None:
    free = generate(UNTIED, text_prompt(4), max_new_tokens=12)[0, 4:]
    result = generate(UNTIED, text_prompt(4), max_new_tokens=12, eos_token_id=int(free[2]))[0, 4:]
    first = int(np.flatnonzero(free == free[2])[0])
    np.testing.assert_array_equal(result, free[: first + 1])


def test_the_result_holds_the_prompt_and_is_int64() -> None:
    arrays = pad_together([image_prompt(TIED), text_prompt(6)])
    result = generate(TIED, arrays, max_new_tokens=1)
    assert result.dtype == np.int64
    np.testing.assert_array_equal(result[:, :-1], arrays["input_ids"])


def test_the_stream_yields_the_same_tokens_one_by_one() -> None:
    arrays = pad_together([image_prompt(TIED), text_prompt(6)])
    inputs = {name: array for name, array in arrays.items() if name != "input_ids"}
    steps = lively_model(TIED).generate_stream(arrays["input_ids"], inputs=inputs, max_new_tokens=5)
    tokens = np.stack([step.tokens for step in steps], axis=1)
    np.testing.assert_array_equal(tokens, generate(TIED, arrays, max_new_tokens=5)[:, -5:])


def test_a_stream_that_is_not_read_to_its_end_leaves_its_engine_for_the_next_call() -> None:
    model = Qwen25VL.from_spec(TIED, lively_weights(TIED))
    model.generate(**text_prompt(6), max_new_tokens=1)
    engine = model.idle_engine
    for number, _ in enumerate(model.generate_stream(text_prompt(6)["input_ids"], max_new_tokens=9)):
        if number == 3:
            break
    assert model.idle_engine is engine is not None
    found = model.generate(**text_prompt(6), max_new_tokens=9).asnumpy()
    np.testing.assert_array_equal(found, generate(TIED, text_prompt(6), max_new_tokens=9))


def test_refuses_arguments_of_hf_that_would_change_the_answer_and_names_all_of_them() -> None:
    unknown = {"num_beams": 2, "num_return_sequences": 2, "max_length": 9, "stop_strings": ["x"], "no_repeat_ngram": 3}
    with pytest.raises(InputError) as caught:
        generate(TIED, text_prompt(4), **unknown)
    assert [problem.key for problem in caught.value.problems] == list(unknown)


def test_a_change_of_the_weights_reaches_what_was_compiled() -> None:
    # 60 tokens: compiled in each call, and the second call finds it compiled.
    arrays, count = text_prompt(4), 60
    changed = Qwen25VL.from_spec(TIED, lively_weights(TIED, seed=1))
    before = changed.generate(**arrays, max_new_tokens=count).asnumpy()
    np.testing.assert_array_equal(changed.generate(**arrays, max_new_tokens=count).asnumpy(), before)
    fill(changed, lively_weights(TIED, seed=2))
    after = changed.generate(**arrays, max_new_tokens=count).asnumpy()
    assert (after != before).any()
    fresh = Qwen25VL.from_spec(TIED, lively_weights(TIED, seed=2))
    np.testing.assert_array_equal(after, generate_without_cache(fresh, text_prompt(4), count))


def test_two_streams_of_one_model_do_not_disturb_each_other() -> None:
    prompts = [text_prompt(4), text_prompt(7, seed=2)]
    streams = [lively_model(TIED).generate_stream(one["input_ids"], max_new_tokens=6) for one in prompts]
    both = list(zip(*streams, strict=True))
    for number, one in enumerate(prompts):
        found = [int(steps[number].tokens[0]) for steps in both]
        assert found == generate(TIED, one, max_new_tokens=6)[0, -6:].tolist()


def test_generates_in_a_thread_of_its_own_what_it_generates_in_the_main_one() -> None:
    model = Qwen25VL.from_spec(TIED, lively_weights(TIED))
    found: list[np.ndarray] = []
    thread = Thread(target=lambda: found.append(model.generate(**text_prompt(4), max_new_tokens=60).asnumpy()))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], generate(TIED, text_prompt(4), max_new_tokens=60))


def test_refuses_an_unknown_option() -> None:
    with pytest.raises(InputError, match="num_beams"):
        generate(TIED, text_prompt(3), num_beams=2)
