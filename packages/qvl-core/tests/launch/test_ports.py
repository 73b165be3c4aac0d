"""A taken port is found, its owner named, and a free one proposed."""

from __future__ import annotations

import os
import socket

import pytest
from qvl_core.errors import OutputError
from qvl_core.launch.ports import free_port, is_free, owner_of, require_free_port


@pytest.fixture(params=["127.0.0.1", "0.0.0.0", "::"])
def taken(request: pytest.FixtureRequest):
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    try:
        listener = socket.socket(family)
        listener.bind((request.param, 0))
    except OSError:
        pytest.skip("this machine has no such address")
    with listener:
        listener.listen()
        yield listener.getsockname()[1]


def test_a_taken_port_is_refused_with_its_owner_and_a_free_one(taken: int) -> None:
    with pytest.raises(OutputError) as caught:
        require_free_port(f"localhost:{taken}", "a.toml:3")
    text = str(caught.value)
    assert text.startswith(
        f"a.toml:3: launch.master\n  port {taken} is in use on this machine, by process {os.getpid()} ("
    )
    proposed = int(text.rpartition("localhost:")[2])
    assert proposed != taken
    assert is_free(proposed)


def test_a_free_port_is_accepted_and_left_free() -> None:
    port = free_port()
    require_free_port(f"localhost:{port}", "a.toml")
    assert is_free(port)
    assert owner_of(port) == ""


def test_two_that_ask_at_the_same_moment_do_not_take_the_port_from_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[bool] = []

    class Slow(socket.socket):
        """Another asks before this probe is closed."""

        def close(self) -> None:
            if not answers:
                answers.append(False)
                answers[0] = is_free(port)
            super().close()

    port = free_port()
    monkeypatch.setattr(socket, "socket", Slow)
    assert is_free(port)
    assert answers == [True]


def test_a_port_whose_listener_has_gone_is_free_again() -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            listener.accept()[0].close()
    # The connection is in TIME_WAIT now, which keeps nobody from listening.
    assert is_free(port)
