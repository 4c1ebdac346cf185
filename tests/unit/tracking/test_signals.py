import signal
from collections.abc import Iterator

import pytest

from remix_study.tracking.signals import defer_stop_signals, restore_signal_handlers


@pytest.fixture(autouse=True)
def pythons_own_handler() -> Iterator[None]:
    """Whatever ran before in this process may have left its own."""
    with restore_signal_handlers():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        yield


def test_a_stop_waits_for_what_is_being_sent() -> None:
    sent: list[str] = []

    def send() -> None:
        with defer_stop_signals():
            signal.raise_signal(signal.SIGINT)
            sent.append("the rest of the transaction")

    with pytest.raises(KeyboardInterrupt):
        send()
    assert sent == ["the rest of the transaction"]


def test_a_second_stop_does_not_wait() -> None:
    sent: list[str] = []

    def send() -> None:
        with defer_stop_signals():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            sent.append("never")

    with pytest.raises(KeyboardInterrupt):
        send()
    assert sent == []


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with defer_stop_signals():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_handler_that_a_library_leaves_behind_is_taken_away() -> None:
    """Ray Train leaves one whose controller is gone after the fit."""
    before = signal.getsignal(signal.SIGINT)

    @restore_signal_handlers()
    def fit() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise ValueError("fit")

    with pytest.raises(ValueError, match="fit"):
        fit()
    assert signal.getsignal(signal.SIGINT) is before
