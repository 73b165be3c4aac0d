"""The first signal is a request, a second request leaves; one request may come as several signals."""

from __future__ import annotations

import signal

import pytest
from qvl_core.launch import stop_request
from qvl_core.launch.stop_request import PASSED_ON_S
from qvl_train.interrupt import Interrupt


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(stop_request.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_the_first_signal_is_only_noted(number: signal.Signals) -> None:
    with Interrupt(is_alone=True) as interrupt:
        assert interrupt.signal_name is None
        signal.raise_signal(number)
        assert interrupt.signal_name == number.name


def test_ctrl_c_after_a_request_leaves_a_single_process_at_once() -> None:
    with Interrupt(is_alone=True):
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_rank_takes_what_the_launcher_passes_on_for_the_same_request(
    clock: list[float], number: signal.Signals
) -> None:
    with Interrupt(is_alone=False) as interrupt:
        signal.raise_signal(number)
        clock[0] += PASSED_ON_S
        signal.raise_signal(number)
        assert interrupt.signal_name == number.name
        clock[0] += 0.1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def test_what_the_launcher_passes_on_may_come_after_the_last_save() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with Interrupt(is_alone=False):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_rank_leaves_the_signal_for_its_stacks_alone() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with Interrupt(is_alone=False):
        assert signal.getsignal(signal.SIGUSR1) is before


@pytest.mark.parametrize("is_alone", [True, False])
def test_the_handlers_of_before_are_put_back(is_alone: bool) -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupt(is_alone=is_alone):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
