"""The socket between the process that asks and the first rank: what arrives, who may come, how it ends."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import numpy as np
import pytest
from qvl_core.errors import RunError
from qvl_core.launch import link
from qvl_core.launch.link import LINK_VARIABLE, Door, Link, Message, knock


def connected(door: Door) -> tuple[Link, Link]:
    far: list[Link] = []
    thread = threading.Thread(target=lambda: far.append(knock(door.variables)))
    thread.start()
    near = door.accept(lambda: True)
    thread.join()
    assert near is not None
    return near, far[0]


def test_values_and_arrays_of_every_kind_arrive_to_the_bit() -> None:
    random = np.random.default_rng(0)
    arrays = {
        "ids": np.arange(7, dtype=np.int32),
        "patches": np.frombuffer(random.bytes(4 * 12), np.float32).reshape(3, 4),
        "bits": random.integers(0, 2**16, (2, 5), np.uint16),
        "empty": np.empty((0, 4), np.float32),
        "turned": np.arange(12, dtype=np.int64).reshape(3, 4).T,
        "scalar": np.array(3, np.int32),
    }
    with Door() as door:
        near, far = connected(door)
        near.send(Message(kind="submit", fields={"seed": 2**64 - 1, "text": "数字", "none": None}, arrays=arrays))
        found = far.receive()
        assert found is not None
        assert (found.kind, found.fields) == ("submit", {"seed": 2**64 - 1, "text": "数字", "none": None})
        assert list(found.arrays) == list(arrays)
        for name, array in arrays.items():
            assert found.arrays[name].dtype == array.dtype
            assert found.arrays[name].shape == array.shape
            assert found.arrays[name].tobytes() == array.tobytes()


def test_large_messages_pass_in_both_directions_at_once() -> None:
    big = {"patches": np.arange(3_000_000, dtype=np.float32)}
    with Door() as door:
        near, far = connected(door)
        got: list[Message | None] = []
        takers = [threading.Thread(target=lambda one=one: got.append(one.receive())) for one in (near, far)]
        senders = [threading.Thread(target=one.send, args=(Message(kind="x", arrays=big),)) for one in (near, far)]
        for thread in (*takers, *senders):
            thread.start()
        for thread in (*takers, *senders):
            thread.join(120)
        assert [np.array_equal(one.arrays["patches"], big["patches"]) for one in got if one] == [True, True]


def test_the_end_of_the_other_side_is_none_even_within_a_message() -> None:
    with Door() as door:
        near, far = connected(door)
        far._socket.sendall(b"\x09\x00\x00\x00")
        far.close()
        assert near.receive() is None
        with pytest.raises(OSError, match=r"pipe|reset"):
            near.send(Message(kind="stop", arrays={"x": np.zeros(1_000_000)}))


def test_closing_wakes_who_waits() -> None:
    with Door() as door:
        near, _far = connected(door)
        woken = threading.Thread(target=near.receive)
        woken.start()
        near.close()
        woken.join(120)
        assert not woken.is_alive()


def test_the_folder_is_this_users_alone_and_goes() -> None:
    with Door() as door:
        folder = Path(door.variables[LINK_VARIABLE]).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()


def test_a_folder_that_can_have_no_socket_is_named_and_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = tmp_path / ("long" * 30)
    made.mkdir()
    monkeypatch.setattr(link, "temporary_folder", lambda: made)
    with pytest.raises(RunError, match="set TMPDIR to a short path"), Door():
        raise AssertionError("never entered")
    assert not made.exists()


def test_a_process_of_another_user_is_not_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    with Door() as door:
        users = iter([os.geteuid() + 1, os.geteuid()])
        monkeypatch.setattr(link, "_user_of", lambda _: next(users))
        stranger, wanted = knock(door.variables), iter([True, False])
        assert door.accept(lambda: next(wanted)) is None
        assert stranger.receive() is None, "the door was closed on it"
        near, _ = connected(door)
        assert near is not None


def test_nobody_is_waited_for_who_is_not_wanted() -> None:
    answers = iter([True, True, False])
    with Door() as door:
        assert door.accept(lambda: next(answers)) is None


def test_workers_without_somebody_who_asks_say_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="started by `qvl infer`"):
        knock({})
    with pytest.raises(RunError, match="is gone"):
        knock({LINK_VARIABLE: str(tmp_path / "none.sock")})
