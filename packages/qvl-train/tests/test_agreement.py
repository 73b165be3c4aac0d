"""What ranks do together fails together, with the error of the rank that it happened on."""

from __future__ import annotations

from typing import Any

from qvl_core.errors import OutputError, Problem, QvlError
from qvl_core.layout import Layout
from qvl_train.agreement import OtherRankError, together
from thread_worlds import run_ranks

THREE = Layout(vision_stages=(1,), text_stages=(1,), dp=3)


def test_all_get_all_results_in_rank_order() -> None:
    assert (
        run_ranks(THREE, lambda world: together(world, lambda: {"rank": world.rank}))
        == [[{"rank": 0}, {"rank": 1}, {"rank": 2}]] * 3
    )


def test_one_ranks_error_is_raised_on_all_with_its_text_and_exit_code() -> None:
    def work(world: Any) -> Any:
        def fail() -> None:
            if world.rank == 1:
                raise OutputError(Problem(where="run", message="is a file"))

        return together(world, fail)

    first, own, last = run_ranks(THREE, work)
    assert isinstance(own, OutputError)
    for other in (first, last):
        assert isinstance(other, OtherRankError)
        assert str(other) == "run\n  is a file\n(on rank 1)"
        assert other.exit_code == 2


def test_an_error_that_is_nobodys_mistake_comes_with_its_kind() -> None:
    def work(world: Any) -> Any:
        return together(world, lambda: 1 // world.rank)

    own, *others = run_ranks(THREE, work)
    assert isinstance(own, ZeroDivisionError)
    for other in others:
        assert isinstance(other, QvlError)
        assert str(other).startswith("ZeroDivisionError: ")
        assert other.exit_code == 1
