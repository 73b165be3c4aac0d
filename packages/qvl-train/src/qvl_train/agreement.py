"""What all ranks do together, so that they also fail together: one rank's error becomes everybody's."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from qvl_core.errors import EXIT_FAILED, QvlError

if TYPE_CHECKING:
    from qvl_core.parallel.world import Json, World


PRECEDENCE_S = 0.1


class OtherRankError(QvlError):
    """The error of another rank, raised here as well; it ends with that error's exit code."""

    def __init__(self, text: str, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(text)


def together(world: World, work: Callable[[], Json]) -> list[Json]:
    """Do a piece of work on every rank and give all results in rank order.

    If it fails on a rank, every rank raises: that one its own error, the others an OtherRankError that quotes the
    first.
    The work must not wait for other ranks where a failure could keep one of them from coming.
    """
    try:
        message: dict[str, Json] = {"value": work()}
        own = None
    except Exception as error:
        message, own = _failure(error), error
    answers = world.exchange(message)
    if own is not None:
        raise own
    values = []
    for rank, answer in enumerate(answers):
        assert isinstance(answer, dict)
        if "error" in answer:
            # The launcher shows the first error of all: that has to be the one of the rank that it happened on.
            time.sleep(PRECEDENCE_S)
            raise OtherRankError(f"{answer['error']}\n(on rank {rank})", int(str(answer["exit_code"])))
        values.append(answer["value"])
    return values


def _failure(error: Exception) -> dict[str, Json]:
    is_ours = isinstance(error, QvlError)
    return {
        "error": str(error) if is_ours else f"{type(error).__name__}: {error}",
        "exit_code": error.exit_code if isinstance(error, QvlError) else EXIT_FAILED,
    }
