"""A list of requests, answered at once. Over ranks: test_ranks.py."""

from __future__ import annotations

import pytest

pytest.importorskip("mindspore", reason="the model needs mindspore")

from qvl_core.answer_sizes import BLOCK
from qvl_core.errors import InputError
from qvl_core.generate import GenerationOptions
from qvl_core.generate.answer_all import answer_all
from qvl_core.generate.request import Event, Request
from qvl_core.model import flatten_prompt
from small_models import TIED, lively_model, text_prompt


def requests(*lengths: int) -> list[Request]:
    return [
        Request(
            prompt=flatten_prompt(TIED, **text_prompt(length)).batch,
            options=GenerationOptions(max_new_tokens=5),
            request_id=f"number {number}",
        )
        for number, length in enumerate(lengths)
    ]


def test_answers_come_in_the_order_of_the_requests() -> None:
    seen: list[Event] = []
    found = answer_all(lively_model(TIED), requests(30, 3, 9), slots=2, max_tokens=2 * BLOCK, on_event=seen.append)
    assert list(found) == ["number 0", "number 1", "number 2"]
    for length, tokens in zip((30, 3, 9), found.values(), strict=True):
        prompt = text_prompt(length)
        assert tokens == lively_model(TIED).generate(**prompt, max_new_tokens=5).asnumpy()[0, length:].tolist()
    assert len(seen) == 15


def test_nothing_runs_if_one_request_can_never_be_answered_and_all_such_are_named() -> None:
    seen: list[Event] = []
    with pytest.raises(InputError) as caught:
        answer_all(
            lively_model(TIED), requests(3, BLOCK, 9, 2 * BLOCK), slots=1, max_tokens=BLOCK, on_event=seen.append
        )
    assert [problem.where for problem in caught.value.problems] == ["request number 1", "request number 3"]
    assert seen == []


def test_no_request_gives_no_answer() -> None:
    assert answer_all(lively_model(TIED), [], slots=1, max_tokens=BLOCK) == {}
