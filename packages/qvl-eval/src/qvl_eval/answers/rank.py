"""One rank of a model that answers: build its part, join the others, do what the asking process says.

`run` is what each worker process calls (entry point `infer` of the group `qvl.workers`), whatever the recipe's task.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qvl_core.launch.link import Link, Message, knock

if TYPE_CHECKING:
    from qvl_core.generate.ranks import Command, Report
    from qvl_core.recipe import Recipe
    from qvl_core.tasks import RunOptions


def run(recipe: Recipe, options: RunOptions) -> None:
    """Answer until the asking process says that it is enough, or is gone."""
    from qvl_core import device
    from qvl_core.launch.board import writer_from_environment
    from qvl_core.params import parameter_count

    board = writer_from_environment()
    board.mark("importing MindSpore")
    device.prepare(recipe.launch.device)
    device.confine_small_model(parameter_count(recipe.spec))
    device.require_mindspore()
    from qvl_core.generate.ranks import answer_until_stopped
    from qvl_core.parallel.stage import build_stage
    from qvl_core.parallel.world import connect

    from qvl_eval.answers.model import local_weights

    board.mark("connecting", waiting=True)
    world = connect(recipe.parallel, recipe.spec, board=board)
    board.stamp("connected")
    link = knock(os.environ) if world.rank == 0 else None
    world.phase = "reading the weights"
    dtype = recipe.model.dtype or "float32"
    model = build_stage(recipe.spec, world, local_weights(recipe, world.place.pp, world.place.tp), dtype)
    model.set_train(False)
    board.stamp("loaded")
    world.exchange(None)
    # A scheduler may signal all processes of a job; when to end is for the process that asks to say.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    front = None if link is None else LinkedFront(link)
    if front is not None:
        front.ready()
    answer_until_stopped(model, world, front)
    world.close()


class LinkedFront:
    """The asking process as the first rank sees it. A thread takes in what comes, so that nobody waits for anybody."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._came: queue.Queue[Command] = queue.Queue()
        threading.Thread(target=self._listen, name="commands", daemon=True).start()

    def ready(self) -> None:
        """Say that the weights are read."""
        self._send(Message(kind="ready"))

    def take(self, wait_s: float) -> Sequence[Command]:
        """Give what has come, after at most so long."""
        found: list[Command] = []
        try:
            if wait_s:
                found.append(self._came.get(timeout=wait_s))
            while True:
                found.append(self._came.get_nowait())
        except queue.Empty:
            return found

    def give(self, report: Report) -> None:
        """Send the events of a step."""
        counts: dict[str, Any] = {
            "active": report.active,
            "waiting": report.waiting,
            "tokens_held": report.tokens_held,
        }
        self._send(Message(kind="events", fields={"events": list(report.events), **counts}))

    def _send(self, message: Message) -> None:
        try:
            self._link.send(message)
        except OSError:
            # It is gone, which the listening thread notices as well.
            return

    def _listen(self) -> None:
        from qvl_core.generate.ranks import Stop

        try:
            while (message := self._link.receive()) is not None:
                self._came.put(_command(message))
        finally:
            # It has hung up, or is gone: nobody asks any more.
            self._came.put(Stop())


def _command(message: Message) -> Command:
    from qvl_core.generate.packed_request import unpack_request
    from qvl_core.generate.ranks import Cancel, Open, Submit

    fields = message.fields
    if message.kind == "submit":
        return Submit(request=unpack_request(fields, message.arrays))
    if message.kind == "cancel":
        return Cancel(request_id=fields["request_id"])
    assert message.kind == "open", message.kind
    return Open(slots=fields["slots"], max_tokens=fields["max_tokens"])
