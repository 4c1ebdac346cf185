import signal
from collections.abc import Iterator

import pytest

from remix_study.tracking.signals import defer_stop_signals, restore_signal_handlers


@pytest.fixture(autouse=True)
def default_sigint_handler() -> Iterator[None]:
    """Restore the default handler, which earlier tests may have replaced."""
    with restore_signal_handlers():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        yield


def test_a_signal_is_deferred_until_the_end_of_the_block() -> None:
    sent: list[str] = []

    def send() -> None:
        with defer_stop_signals():
            signal.raise_signal(signal.SIGINT)
            sent.append("the rest of the transaction")

    with pytest.raises(KeyboardInterrupt):
        send()
    assert sent == ["the rest of the transaction"]


def test_a_second_signal_is_not_deferred() -> None:
    sent: list[str] = []

    def send() -> None:
        with defer_stop_signals():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            sent.append("never")

    with pytest.raises(KeyboardInterrupt):
        send()
    assert sent == []


def test_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with defer_stop_signals():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_handler_that_a_library_leaves_is_removed() -> None:
    """Ray Train leaves behind a handler for a controller that no longer exists."""
    before = signal.getsignal(signal.SIGINT)

    @restore_signal_handlers()
    def fit() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise ValueError("fit")

    with pytest.raises(ValueError, match="fit"):
        fit()
    assert signal.getsignal(signal.SIGINT) is before
