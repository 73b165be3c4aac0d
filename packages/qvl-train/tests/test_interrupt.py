"""The first signal is a request, the second one leaves."""

from __future__ import annotations

import signal

import pytest
from qvl_train.interrupt import Interrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_only_noted(number: signal.Signals) -> None:
    with Interrupt() as interrupt:
        assert interrupt.signal_name is None
        signal.raise_signal(number)
        assert interrupt.signal_name == number.name


def test_the_second_signal_leaves_at_once() -> None:
    with Interrupt():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_handlers_of_before_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupt():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
