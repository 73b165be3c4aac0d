"""The asking side alone: workers that fail at any moment, the scheduler over them, the engine's thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from qvl_core.batch import Batch
from qvl_core.errors import InputError, RunError
from qvl_core.generate import GenerationOptions
from qvl_core.generate.request import Request
from qvl_core.launch.failures import RankError
from qvl_core.launch.link import Link, Message, knock
from qvl_eval.answers import workers as module
from qvl_eval.answers.driver import Driver
from qvl_eval.answers.engine_thread import ENDED, EngineThread
from qvl_eval.answers.job import Job, Piece
from qvl_eval.answers.rank import memory_explained
from qvl_eval.answers.remote_scheduler import RemoteScheduler
from qvl_eval.answers.workers import Workers

WAIT_S = 180.0
ERROR = RankError("qvl: out of memory on this machine\nrank 1 (stage 1, tp 0, dp 0) failed first", 1)


class FakeWorkers:
    """Plays launcher and first rank; `play` gets the link, and how it returns or raises is how the workers end."""

    def __init__(self, play: Callable[[Link, threading.Event], None] | None) -> None:
        self._play = play
        self.was_stopped = False
        self.shown: bool | None = None

    def __call__(self, *, variables: Mapping[str, str], stop: threading.Event, shown: bool) -> None:
        self.shown = shown
        try:
            if self._play is None:
                raise ERROR
            link = knock(variables)
            try:
                self._play(link, stop)
            finally:
                link.close()
        finally:
            self.was_stopped = stop.is_set()


def ready(link: Link) -> None:
    link.send(Message(kind="ready"))


def obedient(link: Link, stop: threading.Event) -> None:
    """Answer every request with its id's length of tokens, all at once, until it is told to stop."""
    ready(link)
    while (message := link.receive()) is not None and message.kind != "stop":
        if message.kind == "submit":
            name = message.fields["request_id"]
            events = [[name, 7, n, None] for n in range(len(name))] + [[name, 8, len(name), "stop"]]
            counts = {"active": 0, "waiting": 0, "tokens_held": 0}
            link.send(Message(kind="events", fields={"events": events, **counts}))


def request(name: str = "abc", tokens: int = 5, new: int = 4) -> Request:
    return Request(prompt=batch(tokens), options=GenerationOptions(max_new_tokens=new), request_id=name)


def batch(tokens: int) -> Batch:
    return Batch(
        input_ids=np.zeros(tokens, np.int32),
        position_ids=np.zeros((3, tokens), np.int32),
        sequence_lengths=(tokens,),
        labels=np.full(tokens, -100, np.int32),
        patches=np.empty((0, 4), np.float32),
        grids=np.empty((0, 3), np.int32),
    )


def test_workers_are_told_to_leave_and_nothing_of_them_is_shown() -> None:
    fake = FakeWorkers(obedient)
    with Workers(fake):
        pass
    assert not fake.was_stopped, "they left by themselves"
    assert fake.shown is False


def test_the_launchers_error_before_the_first_word_is_raised() -> None:
    def use() -> None:
        with Workers(FakeWorkers(None)):
            raise AssertionError("never entered")

    with pytest.raises(RankError, match="rank 1"):
        use()


def fails(link: Link, stop: threading.Event) -> None:
    ready(link)
    link.receive()
    raise ERROR


def test_the_launchers_error_is_raised_where_an_answer_is_waited_for_and_afterwards() -> None:
    def use() -> None:
        with Workers(FakeWorkers(fails)) as workers:
            scheduler = RemoteScheduler(workers, slots=1, max_tokens=64, window=64)
            for _ in range(2):
                with pytest.raises(RankError, match="rank 1"):
                    workers.receive()
            assert scheduler.is_idle

    with pytest.raises(RankError, match="out of memory"):
        use()


def test_leaving_raises_the_error_of_workers_that_failed_while_nobody_waited() -> None:
    ended = threading.Event()

    def use() -> None:
        with Workers(FakeWorkers(fails)) as workers:
            workers.when_ended(ended.set)
            workers.send(Message(kind="open"))
            assert ended.wait(WAIT_S)

    with pytest.raises(RankError, match="rank 1"):
        use()


def test_an_error_of_the_caller_is_not_hidden_by_the_workers() -> None:
    def use() -> None:
        with Workers(FakeWorkers(fails)) as workers:
            workers.send(Message(kind="open"))
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        use()


def test_workers_that_end_without_an_error_are_told_all_the_same() -> None:
    def leaves(link: Link, stop: threading.Event) -> None:
        ready(link)
        link.receive()

    with Workers(FakeWorkers(leaves)) as workers:
        workers.send(Message(kind="open"))
        with pytest.raises(RunError, match="have ended"):
            workers.receive()


def test_workers_that_do_not_leave_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def deaf(link: Link, stop: threading.Event) -> None:
        ready(link)
        assert stop.wait(WAIT_S)

    monkeypatch.setattr(module, "LEAVE_S", 0.1)
    fake = FakeWorkers(deaf)
    with Workers(fake):
        pass
    assert fake.was_stopped


def test_ctrl_c_while_the_weights_are_read_ends_them_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def reading(link: Link, stop: threading.Event) -> None:
        assert stop.wait(WAIT_S)
        raise KeyboardInterrupt

    fake = FakeWorkers(reading)

    def interrupted(self: Workers) -> Message:
        raise KeyboardInterrupt

    monkeypatch.setattr(Workers, "receive", interrupted)

    def use() -> None:
        with Workers(fake):
            raise AssertionError("never entered")

    with pytest.raises(KeyboardInterrupt):
        use()
    assert fake.was_stopped


def test_the_scheduler_over_workers_is_one_like_any_other() -> None:
    with Workers(FakeWorkers(obedient)) as workers:
        scheduler = RemoteScheduler(workers, slots=2, max_tokens=64, window=128)
        assert scheduler.is_idle
        assert scheduler.step() == []
        scheduler.submit(request("ab"))
        scheduler.submit(request("c"))
        assert (scheduler.is_idle, scheduler.active + scheduler.waiting) == (False, 2)
        events = [*scheduler.step(), *scheduler.step()]
        assert [(one.request_id, one.token, one.finished) for one in events] == [
            *[("ab", 7, None)] * 2,
            ("ab", 8, "stop"),
            ("c", 7, None),
            ("c", 8, "stop"),
        ]
        assert scheduler.is_idle
        assert scheduler.tokens_held == 0
        scheduler.cancel("ab")


@pytest.mark.parametrize(("tokens", "new"), [(128, 1), (200, 1), (60, 5)])
def test_what_can_never_run_is_refused_here(tokens: int, new: int) -> None:
    with Workers(FakeWorkers(obedient)) as workers:
        scheduler = RemoteScheduler(workers, slots=2, max_tokens=64, window=128)
        with pytest.raises(InputError, match="there is room for 64"):
            scheduler.submit(request(tokens=tokens, new=new))
        assert scheduler.is_idle
        scheduler.submit(request(tokens=60, new=4))


def test_events_of_a_scheduler_before_are_none_of_the_new_ones() -> None:
    with Workers(FakeWorkers(obedient)) as workers:
        RemoteScheduler(workers, slots=2, max_tokens=64, window=128).submit(request("old"))
        scheduler = RemoteScheduler(workers, slots=2, max_tokens=64, window=128)
        scheduler.submit(request("new"))
        found = [event.request_id for _ in range(2) for event in scheduler.step()]
        assert set(found) == {"new"}


def test_the_engine_ends_with_its_workers_and_tells_those_who_wait() -> None:
    def fails_at_work(link: Link, stop: threading.Event) -> None:
        ready(link)
        link.receive()
        link.receive()
        raise ERROR

    pieces: queue.Queue[Piece] = queue.Queue()

    def use() -> None:
        with Workers(FakeWorkers(fails_at_work)) as workers:
            engine = EngineThread(
                lambda: Driver(RemoteScheduler(workers, slots=1, max_tokens=64, window=64), lambda ids: "x" * len(ids))
            )
            failed = threading.Event()
            engine.when_failed(failed.set)
            engine.start()
            job = Job(job_id="a", prompt=batch(5), options=GenerationOptions(max_new_tokens=3))
            engine.submit(job, pieces.put)
            piece = pieces.get(timeout=WAIT_S)
            assert (piece.finish, piece.failure) == ("failed", ENDED)
            assert failed.wait(WAIT_S)
            late = threading.Event()
            engine.when_failed(late.set)
            assert late.is_set()
            assert engine.stop(WAIT_S)
            assert engine.state.is_dead
            assert isinstance(engine.error, RankError)
            engine.submit(Job(job_id="b", prompt=batch(5), options=GenerationOptions()), pieces.put)
            assert pieces.get(timeout=WAIT_S).finish == "failed"

    with pytest.raises(RankError, match="rank 1"):
        use()


def test_an_engine_that_is_stopped_has_not_failed() -> None:
    failed = threading.Event()
    with Workers(FakeWorkers(obedient)) as workers:
        engine = EngineThread(
            lambda: Driver(RemoteScheduler(workers, slots=1, max_tokens=64, window=64), lambda ids: "x" * len(ids))
        )
        engine.when_failed(failed.set)
        engine.start()
        assert engine.stop(WAIT_S)
    assert engine.state.is_dead
    assert not failed.is_set()


@pytest.mark.parametrize(
    "said",
    [
        "Malloc for kernel output failed, Memory isn't enough, node:Default/MatMul",
        "----\nDevice(id:0) memory isn't enough and alloc failed, kernel name: x, alloc size: 1B.\n----",
    ],
)
def test_a_worker_without_memory_says_what_helps(said: str) -> None:
    with pytest.raises(RunError, match="--held-tokens") as caught, memory_explained():
        raise RuntimeError(said)
    assert "isn't enough" in str(caught.value)
    with pytest.raises(RuntimeError, match="shapes differ"), memory_explained():
        raise RuntimeError("shapes differ")
