"""Answer what comes in, by all ranks of a layout together, until somebody says that it is enough.

The first rank hears the commands from a `Front` and tells the others; every rank of a replica makes the same calls of a
scheduler of its own. One exchange of small values a step carries commands out and new tokens back. A request goes to
the replica with the least to do.

While nothing is to be done no rank waits in a call of the engine (MPI keeps the processor busy there, HCCL has a
limit): all sleep, a little longer each time, and look together. A request that finds them asleep waits for at most
`LONGEST_SLEEP_S`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from qvl_core.answer_sizes import blocks
from qvl_core.generate.engine import Engine
from qvl_core.generate.packed_request import (
    as_bytes,
    byte_count,
    describe,
    from_bytes,
    pack_event,
    pack_request,
    unpack_request,
)
from qvl_core.generate.request import Event, Request
from qvl_core.generate.scheduler import Scheduler
from qvl_core.model.qwen25vl import Qwen25VL
from qvl_core.parallel.world import Json, World

FIRST_SLEEP_S = 0.001
LONGEST_SLEEP_S = 0.05
_SLOWER = 1.3
# Arrays travel in pieces, as int32: what is added to zeros arrives to the bit.
_PIECE_BYTES = 16 * 1024**2


@dataclass(frozen=True, kw_only=True)
class Open:
    """Begin anew with a scheduler of these bounds on every replica; what is under way is forgotten."""

    slots: int
    max_tokens: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Submit:
    """Answer this as well."""

    request: Request


@dataclass(frozen=True, kw_only=True)
class Cancel:
    """Take a request out."""

    request_id: str


@dataclass(frozen=True)
class Stop:
    """Leave."""


Command = Open | Submit | Cancel | Stop


@dataclass(frozen=True, kw_only=True)
class Report:
    """What all replicas did in a step. Counts are sums over them."""

    events: Sequence[list[Any]]
    active: int = 0
    waiting: int = 0
    tokens_held: int = 0


class Front(Protocol):
    """Who asks; only the first rank has one."""

    def take(self, wait_s: float) -> Sequence[Command]:
        """Give the commands that have come; wait so long for the first one."""
        ...

    def give(self, report: Report) -> None:
        """Hear of a step. Called for steps that had events only."""
        ...


def answer_until_stopped(
    model: Qwen25VL, world: World, front: Front | None, *, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Answer with the parts of the model that the ranks of `world` hold, until the front says `Stop`.

    `front` is that of the first rank, None on the others. An error on a rank is raised there and ends the run: what the
    others hold is worth nothing without it.
    """
    rank = _Rank(model, world)
    # One phase for all: the watchdog's limits for a long prompt must not come from short steps before it.
    world.phase = "answering"
    balance = _Balance(world.layout.dp)
    wait_s = 0.0
    while True:
        commands = list(front.take(wait_s)) if front is not None else []
        if front is None and wait_s:
            sleep(wait_s)
        said = world.exchange({"commands": [_told(one, balance) for one in commands], **rank.report()})
        reports = [cast("dict[str, Any]", one) for one in said]
        if front is not None:
            _pass_on(reports, front, balance)
        told = reports[0]["commands"]
        arrays = [command.request for command in commands if isinstance(command, Submit)]
        for command in told:
            if command["kind"] == "stop":
                return
            rank.obey(command, arrays)
        if told or any(report["busy"] for report in reports):
            wait_s = 0.0
            rank.step()
        else:
            wait_s = min(max(wait_s * _SLOWER, FIRST_SLEEP_S), LONGEST_SLEEP_S)


class _Rank:
    """One rank's scheduler, and what it has to report."""

    def __init__(self, model: Qwen25VL, world: World) -> None:
        self._model = model
        self._world = world
        self._scheduler: Scheduler | None = None
        self._events: list[Event] = []
        # All ranks of a replica have the same events; one of them speaks.
        self._speaks = world.place.pp == 0 and world.place.tp == 0

    def report(self) -> dict[str, Json]:
        """Give what is to be exchanged of the last step; `busy` where there was one, or there is more to do."""
        scheduler, events = self._scheduler, self._events
        self._events = []
        if scheduler is None or not self._speaks:
            return {"busy": False}
        return {
            "busy": bool(events) or not scheduler.is_idle,
            "events": [pack_event(event) for event in events],
            "counts": [scheduler.active, scheduler.waiting, scheduler.tokens_held],
        }

    def obey(self, command: Mapping[str, Any], own: list[Request]) -> None:
        """Do what a command says, together with all other ranks. `own` are the requests on the rank that has them."""
        if command["kind"] == "open":
            bounds = {"slots": int(command["slots"]), "max_tokens": int(command["max_tokens"])}
            engine = Engine(self._model, bounds["slots"], blocks(bounds["max_tokens"]), world=self._world)
            self._scheduler = Scheduler(self._model, engine=engine, **bounds)
            return
        assert self._scheduler is not None, "a request came before the bounds were said"
        if command["kind"] == "cancel":
            self._scheduler.cancel(command["request_id"])
            return
        arrays = pack_request(own.pop(0))[1] if own else None
        data = _share(self._world, as_bytes(arrays) if arrays is not None else None, byte_count(command["arrays"]))
        if command["replica"] == self._world.place.dp:
            self._scheduler.submit(unpack_request(command["fields"], from_bytes(command["arrays"], data)))

    def step(self) -> None:
        """Advance what there is."""
        if self._scheduler is not None and not self._scheduler.is_idle:
            self._events = self._scheduler.step()


@dataclass
class _Balance:
    """Which replica has how many requests and tokens to do, as far as the first rank knows."""

    replicas: int
    _home: dict[str, tuple[int, int]] = field(default_factory=dict)

    def place(self, request: Request) -> int:
        """Choose a replica: with the fewest requests, and of those with the fewest tokens to come."""
        tokens = request.prompt.tokens + request.options.max_new_tokens
        held = [[its for home, its in self._home.values() if home == replica] for replica in range(self.replicas)]
        chosen = min(range(self.replicas), key=lambda replica: (len(held[replica]), sum(held[replica])))
        self._home[request.request_id] = (chosen, tokens)
        return chosen

    def ended(self, request_id: str) -> None:
        """Forget a request."""
        self._home.pop(request_id, None)

    def clear(self) -> None:
        """Forget all."""
        self._home.clear()


def _told(command: Command, balance: _Balance) -> dict[str, Json]:
    """Give a command as the other ranks hear it."""
    if isinstance(command, Submit):
        fields, arrays = pack_request(command.request)
        replica = balance.place(command.request)
        return {"kind": "submit", "fields": fields, "arrays": describe(arrays), "replica": replica}
    if isinstance(command, Cancel):
        return {"kind": "cancel", "request_id": command.request_id}
    if isinstance(command, Open):
        balance.clear()
        return {"kind": "open", "slots": command.slots, "max_tokens": command.max_tokens}
    return {"kind": "stop"}


def _pass_on(reports: Sequence[dict[str, Any]], front: Front, balance: _Balance) -> None:
    spoken = [report for report in reports if "events" in report]
    events = [event for report in spoken for event in report["events"]]
    if not events:
        return
    for request_id, _, _, finished in events:
        if finished is not None:
            balance.ended(request_id)
    active, waiting, held = (sum(report["counts"][number] for report in spoken) for number in range(3))
    front.give(Report(events=events, active=active, waiting=waiting, tokens_held=held))


def _share(world: World, data: NDArray[np.uint8] | None, size: int) -> NDArray[np.uint8]:
    """Give every rank the bytes that one of them has."""
    received = np.empty(size, np.uint8)
    for start in range(0, size, _PIECE_BYTES):
        count = min(_PIECE_BYTES, size - start)
        piece = np.zeros(-(-count // 4) * 4, np.uint8)
        if data is not None:
            piece[:count] = data[start : start + count]
        summed = world.everyone.sum(Tensor(piece.view(np.int32))).asnumpy()
        received[start : start + count] = np.ascontiguousarray(summed).view(np.uint8)[:count]
    return received
