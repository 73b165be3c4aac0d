"""The 1F1B order is complete, keeps few micro batches in flight, and never waits for itself."""

from collections import Counter, deque

import pytest
from qvl_core.parallel.schedule import micro_batches_in_flight, one_f_one_b

STAGES, MICRO_BATCHES = range(1, 17), range(1, 25)
SIZES = [(stages, micro_batches) for stages in STAGES for micro_batches in MICRO_BATCHES]
EVERY_STAGE = [(stage, *size) for size in SIZES for stage in range(size[0])]


def test_every_micro_batch_runs_once_forward_and_then_once_backward_in_the_same_order() -> None:
    for stage, stages, micro_batches in EVERY_STAGE:
        order = one_f_one_b(stage, stages, micro_batches)
        forwards = [action.micro_batch for action in order if action.kind == "forward"]
        backwards = [action.micro_batch for action in order if action.kind == "backward"]
        assert forwards == backwards == list(range(micro_batches))
        position = {(action.kind, action.micro_batch): place for place, action in enumerate(order)}
        assert all(position["forward", index] < position["backward", index] for index in forwards)


def test_a_stage_holds_no_more_micro_batches_than_stages_from_it_to_the_end() -> None:
    for stage, stages, micro_batches in EVERY_STAGE:
        held = most = 0
        for action in one_f_one_b(stage, stages, micro_batches):
            held += 1 if action.kind == "forward" else -1
            most = max(most, held)
        assert held == 0
        assert most == micro_batches_in_flight(stage, stages, micro_batches) == min(stages - stage, micro_batches)


def test_the_order_is_warm_up_then_one_forward_one_backward_then_cool_down() -> None:
    words = ["".join(f"{action.kind[0]}{action.micro_batch} " for action in one_f_one_b(s, 3, 4)) for s in range(3)]
    assert words == ["f0 f1 f2 b0 f3 b1 b2 b3 ", "f0 f1 b0 f2 b1 f3 b2 b3 ", "f0 b0 f1 b1 f2 b2 f3 b3 "]


def test_all_stages_finish_with_one_unfinished_send_in_each_direction() -> None:
    assert [size for size in SIZES if not _finishes(*size, unfinished_sends=1)] == []


def test_a_send_that_waits_for_its_receiver_locks_two_stages_as_soon_as_there_are_two_micro_batches() -> None:
    assert [size for size in SIZES if _finishes(*size, unfinished_sends=0)] == [size for size in SIZES if 1 in size]


def test_sends_that_wait_are_enough_where_a_stage_sends_to_a_neighbour_and_receives_from_it_in_one_call() -> None:
    assert [size for size in SIZES if not _finishes(*size, unfinished_sends=0, paired=True)] == []


@pytest.mark.parametrize(("stage", "stages", "micro_batches"), [(-1, 2, 1), (2, 2, 1), (0, 0, 1), (0, 2, 0)])
def test_refuses_a_stage_outside_the_pipeline_and_a_step_without_micro_batches(
    stage: int, stages: int, micro_batches: int
) -> None:
    with pytest.raises(ValueError, match=r"outside|needs a micro batch"):
        one_f_one_b(stage, stages, micro_batches)


def _finishes(stages: int, micro_batches: int, *, unfinished_sends: int, paired: bool = False) -> bool:
    """Run all stages' programs against each other; a send ends when all but so many of its channel are received."""
    programs = [deque(_program(stage, stages, micro_batches, paired=paired)) for stage in range(stages)]
    begun: Counter[tuple[str, int, int]] = Counter()
    fresh = [True] * stages
    moved = True
    while moved:
        moved = False
        for stage, program in enumerate(programs):
            while program:
                if fresh[stage]:
                    begun.update((verb, *_channel(verb, stage, other)) for verb, other in program[0])
                    fresh[stage], moved = False, True
                if not all(
                    _is_over(begun, verb, _channel(verb, stage, other), unfinished_sends) for verb, other in program[0]
                ):
                    break
                program.popleft()
                fresh[stage], moved = True, True
    return not any(programs)


def _is_over(begun: Counter[tuple[str, int, int]], verb: str, channel: tuple[int, int], unfinished_sends: int) -> bool:
    sent, received = begun[("send", *channel)], begun[("receive", *channel)]
    return sent >= received if verb == "receive" else sent - received <= unfinished_sends


def _channel(verb: str, stage: int, other: int) -> tuple[int, int]:
    return (stage, other) if verb == "send" else (other, stage)


def _program(stage: int, stages: int, micro_batches: int, *, paired: bool) -> list[list[tuple[str, int]]]:
    """List a stage's calls, each with what it begins at once: (verb, other stage)."""
    calls: list[list[tuple[str, int]]] = []
    for action in one_f_one_b(stage, stages, micro_batches):
        source, target = (stage - 1, stage + 1) if action.kind == "forward" else (stage + 1, stage - 1)
        if 0 <= source < stages:
            # What comes next is the answer to what was just sent the same way: the two can be one call.
            if paired and calls and calls[-1] == [("send", source)]:
                calls[-1].append(("receive", source))
            else:
                calls.append([("receive", source)])
        if 0 <= target < stages:
            calls.append([("send", target)])
    return calls
