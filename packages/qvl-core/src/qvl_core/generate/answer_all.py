"""Answer a list of requests, in one process or by all ranks of a layout together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from qvl_core.errors import InputError
from qvl_core.generate.engine import borrowed_engine
from qvl_core.generate.request import Event, Request
from qvl_core.generate.scheduler import Scheduler
from qvl_core.model.qwen25vl import Qwen25VL
from qvl_core.parallel.world import Json, World


def answer_all(
    model: Qwen25VL,
    requests: Sequence[Request],
    *,
    slots: int,
    max_tokens: int,
    world: World | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> dict[str, list[int]]:
    """Give the new tokens of every request by its id, in the order of the requests.

    In a `world` every rank has its part of the model and calls this with the same requests; each replica answers its
    share, with so many slots and tokens of its own, and all ranks get all answers. `on_event` sees those of the rank's
    replica as they come. Raises InputError, before anything runs, with every request that can never be answered. The
    model may be in training (see `borrowed_engine`).
    """
    assert len({request.request_id for request in requests}) == len(requests), "two requests have the same id"
    replica, replicas = (world.place.dp, world.layout.dp) if world is not None else (0, 1)
    answers: dict[str, list[int]] = {request.request_id: [] for request in requests[replica::replicas]}
    with borrowed_engine(model, slots, max_tokens, world=world) as engine:
        scheduler = Scheduler(model, slots=slots, max_tokens=max_tokens, engine=engine)
        problems = [problem for problem in map(scheduler.check, requests) if problem is not None]
        if problems:
            raise InputError(problems)
        for request in requests[replica::replicas]:
            scheduler.submit(request)
        while not scheduler.is_idle:
            for event in scheduler.step():
                answers[event.request_id].append(event.token)
                if on_event is not None:
                    on_event(event)
    gathered = _gathered(answers, world) if world is not None else answers
    return {request.request_id: gathered[request.request_id] for request in requests}


def _gathered(answers: dict[str, list[int]], world: World) -> dict[str, list[int]]:
    """Give the answers of all replicas: the ranks of one have the same, its first one says them."""
    place = world.place
    own: dict[str, Json] = {name: tokens for name, tokens in answers.items() if place.pp == place.tp == 0}
    said = world.exchange(own)
    return {name: tokens for part in said for name, tokens in cast("dict[str, list[int]]", part).items()}
