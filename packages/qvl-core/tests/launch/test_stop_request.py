"""One request to stop may come as several signals; a person who presses Ctrl-C twice means it."""

from __future__ import annotations

import signal

import pytest
from qvl_core.launch import stop_request
from qvl_core.launch.stop_request import SAME_REQUEST_S, StopRequest


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(stop_request.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_the_first_signal_is_a_request_and_the_handlers_of_before_are_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as request:
        assert request.number is None
        signal.raise_signal(number)
        assert request.number == number
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_scheduler_that_repeats_itself_asks_once(clock: list[float], number: signal.Signals) -> None:
    with StopRequest() as request:
        signal.raise_signal(signal.SIGTERM)
        clock[0] += SAME_REQUEST_S
        signal.raise_signal(number)
        assert request.number == signal.SIGTERM
        clock[0] += 0.1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_after_a_request_leaves_at_once(clock: list[float], first: signal.Signals) -> None:
    with StopRequest():
        signal.raise_signal(first)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
