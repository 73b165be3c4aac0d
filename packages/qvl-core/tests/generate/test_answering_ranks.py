"""The loop of all ranks, here in one process: commands in, tokens out, sleep in between. Over processes: qvl-eval."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("mindspore", reason="the model needs mindspore")

import numpy as np
from qvl_core.answer_sizes import BLOCK
from qvl_core.generate import GenerationOptions
from qvl_core.generate.answer_all import answer_all
from qvl_core.generate.packed_request import as_bytes, unpack_event
from qvl_core.generate.ranks import (
    FIRST_SLEEP_S,
    LONGEST_SLEEP_S,
    Cancel,
    Command,
    Open,
    Report,
    Stop,
    Submit,
    _Balance,
    _share,
    answer_until_stopped,
)
from qvl_core.generate.request import Request
from qvl_core.layout import Layout
from qvl_core.model import flatten_prompt
from qvl_core.parallel.single import SingleWorld

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))

from small_models import TIED, image_prompt, lively_model, text_prompt

OPEN = Open(slots=2, max_tokens=2 * BLOCK)


class ScriptedFront:
    """Gives the commands of a script, a list for each look, and keeps what it hears."""

    def __init__(self, *script: Sequence[Command]) -> None:
        self._script = list(script)
        self.waits: list[float] = []
        self.reports: list[Report] = []

    def take(self, wait_s: float) -> Sequence[Command]:
        self.waits.append(wait_s)
        return self._script.pop(0) if self._script else []

    def give(self, report: Report) -> None:
        self.reports.append(report)

    def tokens(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for report in self.reports:
            for event in map(unpack_event, report.events):
                found.setdefault(event.request_id, []).append(event.token)
        return found


def requests(count: int = 3, new: int = 6) -> list[Request]:
    prompts = [text_prompt(5), image_prompt(TIED), text_prompt(9, seed=1)]
    return [
        Request(
            prompt=flatten_prompt(TIED, **prompts[number % 3]).batch,
            options=GenerationOptions(max_new_tokens=new),
            request_id=str(number),
        )
        for number in range(count)
    ]


def run(front: ScriptedFront) -> None:
    model = lively_model(TIED)
    answer_until_stopped(model, SingleWorld(Layout.single(TIED)), front)


def test_answers_are_those_of_the_scheduler_whenever_they_come() -> None:
    asked = requests()
    expected = answer_all(lively_model(TIED), asked, slots=1, max_tokens=BLOCK)
    front = ScriptedFront([OPEN, Submit(request=asked[0])], [], [Submit(request=asked[1]), Submit(request=asked[2])])
    front._script += [[] for _ in range(30)] + [[Stop()]]
    run(front)
    assert front.tokens() == expected
    assert max(report.active for report in front.reports) == 2
    assert front.reports[-1].active == 0


def test_a_cancelled_request_gives_its_slot_back() -> None:
    asked = requests(1, new=50)
    front = ScriptedFront([OPEN, Submit(request=asked[0])], [], [Cancel(request_id="0")], [], [], [Stop()])
    run(front)
    assert front.tokens()["0"][-1] == -1
    assert front.reports[-1].active == front.reports[-1].tokens_held == 0


def test_opening_anew_forgets_what_was_under_way() -> None:
    asked = requests(2, new=50)
    front = ScriptedFront([OPEN, Submit(request=asked[0])], [OPEN, Submit(request=asked[1])], [], [], [Stop()])
    run(front)
    tokens = front.tokens()
    assert len(tokens["0"]) == 1
    assert len(tokens["1"]) >= 2


def test_with_nothing_to_do_it_sleeps_longer_and_longer_and_with_something_not_at_all() -> None:
    asked = requests(1, new=4)
    front = ScriptedFront([OPEN], *([[]] * 30), [Submit(request=asked[0])], *([[]] * 8), [Stop()])
    run(front)
    idle = front.waits[2:32]
    assert idle[0] == FIRST_SLEEP_S
    assert idle == sorted(idle)
    assert idle[-1] == LONGEST_SLEEP_S
    # From the request on until its last token has been told.
    assert front.waits[32:36] == [0.0] * 4
    assert front.waits[-1] > 0


def test_a_request_goes_to_the_replica_with_the_least_to_do() -> None:
    balance = _Balance(2)
    short, other, long = requests(3, new=4)[:2], requests(5)[3:], requests(9, new=200)[8:]
    assert [balance.place(one) for one in (long[0], short[0], short[1])] == [0, 1, 1]
    assert balance.place(other[0]) == 0
    balance.ended(short[0].request_id)
    balance.ended(short[1].request_id)
    assert balance.place(other[1]) == 1


def test_bytes_that_are_shared_arrive_to_the_bit() -> None:
    world = SingleWorld(Layout.single(TIED))
    for size in (0, 1, 3, 4, 1001):
        data = np.frombuffer(np.random.default_rng(size).bytes(size), np.uint8)
        assert _share(world, data, size).tobytes() == data.tobytes()
    negative_zero = {"x": np.array([-0.0, np.nan], np.float32)}
    packed = as_bytes(negative_zero)
    assert _share(world, packed, len(packed)).tobytes() == packed.tobytes()
