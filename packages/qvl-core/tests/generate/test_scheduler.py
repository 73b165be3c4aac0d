"""Continuous batching: whatever else is in the batch, a request gets the tokens that it gets alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("mindspore", reason="the model needs mindspore")

from mindspore import Tensor
from qvl_core.answer_sizes import BLOCK
from qvl_core.errors import InputError, RunError
from qvl_core.generate import GenerationOptions
from qvl_core.generate.engine import Engine
from qvl_core.generate.request import NO_TOKEN, Event, Request, ScoresError
from qvl_core.generate.scheduler import Scheduler
from qvl_core.model import Qwen25VL, flatten_prompt
from qvl_core.specs.model_spec import ModelSpec
from small_models import SPECS, TIED, TOKENS, UNTIED, image_prompt, lively_model, lively_weights, text_prompt

PENALTY = GenerationOptions(max_new_tokens=14, repetition_penalty=1.3)
SAMPLED = GenerationOptions(max_new_tokens=5, do_sample=True, temperature=1.5, top_k=30, top_p=0.9)


@lru_cache
def prompts(spec: ModelSpec) -> tuple[dict[str, np.ndarray], ...]:
    video = image_prompt(spec, 6, 2, text=4, seed=5)
    video["input_ids"] = np.where(video["input_ids"] == TOKENS.image, TOKENS.video, video["input_ids"])
    video["pixel_values_videos"] = video.pop("pixel_values")
    video["video_grid_thw"] = video.pop("image_grid_thw") // (1, 3, 1) * (3, 1, 1)
    video["second_per_grid_ts"] = np.array([1.5])
    return (
        text_prompt(1),
        text_prompt(9, seed=1),
        text_prompt(BLOCK - 3, seed=2),
        text_prompt(3 * BLOCK, seed=4),
        image_prompt(spec),
        image_prompt(spec, 2, 5, text=1, seed=3),
        video,
    )


def request(spec: ModelSpec, prompt: int, options: GenerationOptions, name: str = "one") -> Request:
    return Request(prompt=flatten_prompt(spec, **prompts(spec)[prompt]).batch, options=options, request_id=name)


@cache
def alone(spec: ModelSpec, prompt: int, options: GenerationOptions) -> list[int]:
    """Give the answer by the plain call, for a batch of one."""
    arrays = prompts(spec)[prompt]
    choices = {name: getattr(options, name) for name in options.__dataclass_fields__}
    return lively_model(spec).generate(**arrays, **choices).asnumpy()[0, arrays["input_ids"].shape[1] :].tolist()


def run(scheduler: Scheduler) -> dict[str, list[Event]]:
    events: dict[str, list[Event]] = {}
    while not scheduler.is_idle:
        for event in scheduler.step():
            events.setdefault(event.request_id, []).append(event)
    return events


def tokens(events: list[Event]) -> list[int]:
    assert [event.text_index for event in events] == list(range(len(events)))
    assert [event.finished is not None for event in events] == [False] * (len(events) - 1) + [True]
    return [event.token for event in events]


choices = st.builds(
    replace,
    st.sampled_from([GenerationOptions(), PENALTY, SAMPLED]),
    max_new_tokens=st.integers(1, 20),
    seed=st.integers(0, 2),
    eos_token_id=st.sampled_from([(), (3, 17, 40, 61, 80)]),
)


@settings(max_examples=25, deadline=None)
@given(
    spec=st.sampled_from(SPECS),
    slots=st.integers(1, 4),
    room=st.integers(4, 12),
    pass_tokens=st.sampled_from([1, 30, 4096]),
    patience=st.sampled_from([0, 3, 1000]),
    arrivals=st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 6), choices, st.none() | st.integers(1, 8)), max_size=9
    ),
)
def test_random_mixes_give_every_request_the_tokens_that_it_gets_alone(
    spec: ModelSpec,
    slots: int,
    room: int,
    pass_tokens: int,
    patience: int,
    arrivals: list[tuple[int, int, GenerationOptions, int | None]],
) -> None:
    engine = Engine(lively_model(spec), slots, room * BLOCK, patience=patience)
    scheduler = Scheduler(
        lively_model(spec), slots=slots, max_tokens=room * BLOCK, prefill_tokens=pass_tokens, engine=engine
    )
    found: dict[str, list[Event]] = {str(number): [] for number in range(len(arrivals))}
    for step in range(1000):
        for number, (arrival, prompt, options, stays) in enumerate(arrivals):
            if arrival == step:
                scheduler.submit(request(spec, prompt, options, str(number)))
            if stays is not None and arrival + stays == step:
                scheduler.cancel(str(number))
        for event in scheduler.step():
            found[event.request_id].append(event)
        assert scheduler.active <= slots
        assert engine.cache.rows * engine.cache.capacity <= room * BLOCK
        assert int(engine.cache.lengths.sum()) == scheduler.tokens_held
        if step > 15 and scheduler.is_idle:
            break
    for number, (_, prompt, options, stays) in enumerate(arrivals):
        got, expected = tokens(found[str(number)]), alone(spec, prompt, options)
        if got[-1] == NO_TOKEN:
            assert stays is not None
            assert found[str(number)][-1].finished == "cancelled"
            assert got[:-1] == expected[: len(got) - 1]
        else:
            assert got == expected
            stopped = expected[-1] in options.stop_ids
            assert found[str(number)][-1].finished == ("stop" if stopped else "length")


def test_requests_with_different_options_share_a_batch() -> None:
    mix = [(0, PENALTY), (1, SAMPLED), (4, replace(SAMPLED, seed=3)), (4, GenerationOptions(max_new_tokens=9))]
    scheduler = Scheduler(lively_model(TIED), slots=4, max_tokens=4 * BLOCK)
    for number, (prompt, options) in enumerate(mix):
        scheduler.submit(request(TIED, prompt, options, str(number)))
    first = scheduler.step()
    assert [event.request_id for event in first] == ["0", "1", "2", "3"]
    assert (scheduler.active, scheduler.waiting) == (4, 0)
    rest = run(scheduler)
    for number, (prompt, options) in enumerate(mix):
        assert tokens([first[number], *rest[str(number)]]) == alone(TIED, prompt, options)


def test_a_request_waits_for_a_slot_and_for_room_in_order() -> None:
    scheduler = Scheduler(lively_model(TIED), slots=3, max_tokens=2 * BLOCK)
    short, long = GenerationOptions(max_new_tokens=3), GenerationOptions(max_new_tokens=BLOCK)
    # The second one alone needs both blocks; the third would fit beside the first but does not overtake.
    for name, options in (("first", short), ("second", long), ("third", short)):
        scheduler.submit(request(TIED, 1, options, name))
    assert {event.request_id for event in scheduler.step()} == {"first"}
    assert (scheduler.active, scheduler.waiting) == (1, 2)
    order = [event.request_id for _ in range(80) for event in scheduler.step() if event.finished]
    assert order == ["first", "second", "third"]


def test_a_cancelled_request_gives_its_slot_to_the_next_one() -> None:
    scheduler = Scheduler(lively_model(TIED), slots=1, max_tokens=BLOCK)
    for name in ("held", "waits", "next"):
        scheduler.submit(request(TIED, 1, GenerationOptions(max_new_tokens=9), name))
    scheduler.step()
    for name in ("held", "waits", "unknown"):
        scheduler.cancel(name)
    assert (scheduler.active, scheduler.waiting, scheduler.tokens_held) == (0, 1, 0)
    events = scheduler.step()
    assert [(event.request_id, event.finished) for event in events] == [
        ("held", "cancelled"), ("waits", "cancelled"), ("next", None),
    ]  # fmt: skip
    assert events[0] == Event(request_id="held", token=NO_TOKEN, text_index=1, finished="cancelled")
    assert [events[2].token, *tokens([replace_index(e) for e in run(scheduler)["next"]])] == alone(
        TIED, 1, GenerationOptions(max_new_tokens=9)
    )


def replace_index(event: Event) -> Event:
    return replace(event, text_index=event.text_index - 1)


def test_refuses_what_can_never_fit_and_takes_its_neighbour() -> None:
    scheduler = Scheduler(lively_model(TIED), slots=2, max_tokens=BLOCK)
    prompt = text_prompt(9)["input_ids"].shape[1]
    with pytest.raises(InputError, match=rf"prompt\n.*has {prompt} tokens.*up to 56 new ones.*cache of {BLOCK}"):
        scheduler.submit(request(TIED, 1, GenerationOptions(max_new_tokens=BLOCK - prompt + 1)))
    assert scheduler.is_idle
    scheduler.submit(request(TIED, 1, GenerationOptions(max_new_tokens=BLOCK - prompt)))


def test_refuses_a_prompt_that_fills_the_window_and_ends_an_answer_at_it() -> None:
    narrow = replace(TIED, text=replace(TIED.text, max_position_embeddings=12))
    model = lively_model(narrow)
    for length, fits in ((12, False), (11, True)):
        scheduler = Scheduler(model, slots=1, max_tokens=BLOCK)
        prompt = flatten_prompt(narrow, **text_prompt(length)).batch
        one = Request(prompt=prompt, options=GenerationOptions(max_new_tokens=30), request_id="one")
        if not fits:
            with pytest.raises(InputError, match="window has 12"):
                scheduler.submit(one)
            continue
        scheduler.submit(one)
        assert [event.finished for event in run(scheduler)["one"]] == ["length"]


def test_cache_memory_is_that_of_the_formula() -> None:
    engine = Engine(lively_model(UNTIED), 4, 4 * BLOCK)
    scheduler = Scheduler(lively_model(UNTIED), slots=4, max_tokens=4 * BLOCK, engine=engine)
    for name in "abc":
        scheduler.submit(request(UNTIED, 1, GenerationOptions(max_new_tokens=4), name))
    scheduler.step()
    text = UNTIED.text
    token = 2 * text.num_layers * text.num_kv_heads * text.head_dim * 4
    assert engine.cache.held_bytes == token * engine.cache.rows * engine.cache.capacity == token * 4 * BLOCK


def test_refuses_an_id_that_is_in_use_and_takes_it_again_afterwards() -> None:
    scheduler = Scheduler(lively_model(TIED), slots=1, max_tokens=BLOCK)
    options = GenerationOptions(max_new_tokens=2)
    for ended in ("finished", "cancelled"):
        scheduler.submit(request(TIED, 1, options, "one"))
        with pytest.raises(InputError, match="request one: request_id"):
            scheduler.submit(request(TIED, 1, options, "one"))
        if ended == "cancelled":
            scheduler.cancel("one")
        assert run(scheduler)["one"][-1].finished is not None


@pytest.mark.parametrize(
    "options", [GenerationOptions(max_new_tokens=9), GenerationOptions(max_new_tokens=9, do_sample=True)]
)
def test_scores_that_are_not_finite_end_the_scheduler_and_not_the_next_one(options: GenerationOptions) -> None:
    model = Qwen25VL.from_spec(UNTIED, lively_weights(UNTIED))
    scheduler = Scheduler(model, slots=2, max_tokens=2 * BLOCK)
    scheduler.submit(request(UNTIED, 1, options))
    scheduler.step()
    held = model.head_weight.asnumpy().copy()
    broken = held.copy()
    broken[5] = np.nan
    model.head_weight.set_data(Tensor(broken))
    with pytest.raises(ScoresError, match="request one: the scores of new token 1 are NaN or infinite"):
        scheduler.step()
    for call in (scheduler.step, lambda: scheduler.submit(request(UNTIED, 1, options, "two"))):
        with pytest.raises(RunError, match=r"earlier step failed \(ScoresError: request one.*\)\n.*new scheduler"):
            call()
    model.head_weight.set_data(Tensor(held))
    after = Scheduler(model, slots=2, max_tokens=2 * BLOCK)
    after.submit(request(UNTIED, 1, PENALTY))
    assert tokens(run(after)["one"]) == alone(UNTIED, 1, PENALTY)


@pytest.mark.parametrize("part", ["prefill", "decode"])
def test_a_failure_inside_a_step_is_not_covered_up(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(lively_model(TIED), 2, 2 * BLOCK)
    scheduler = Scheduler(lively_model(TIED), slots=2, max_tokens=2 * BLOCK, engine=engine)
    scheduler.submit(request(TIED, 1, PENALTY, "one"))
    scheduler.step()
    scheduler.submit(request(TIED, 4, PENALTY, "two"))

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(engine, part, fail)
        with pytest.raises(KeyboardInterrupt):
            scheduler.step()
    with pytest.raises(RunError, match="earlier step failed"):
        scheduler.step()
    assert lively_model(TIED).generate(**prompts(TIED)[1], max_new_tokens=1).shape == (1, 10)
