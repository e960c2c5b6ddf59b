"""Being asked to stop before there is anything to put back. What follows is in test_runner and test_search."""

import signal
import threading
from collections.abc import Iterator

import pytest

from search.stopping import Interruptible


@pytest.fixture(autouse=True)
def python_s_own_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_it_where_it_is() -> None:
    with pytest.raises(KeyboardInterrupt), Interruptible():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_that_comes_amid_a_destructor_is_raised_again() -> None:
    class Interrupted:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    with Interruptible() as interruptible:
        interruptible.check()
        thing = Interrupted()
        del thing  # Python prints the exception and goes on
        with pytest.raises(KeyboardInterrupt):
            interruptible.check()


def test_who_wants_to_hear_no_signals_hears_none() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interruptible() as interruptible:
        signal.raise_signal(signal.SIGINT)
        interruptible.check()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_may_use_it() -> None:
    went_well = []

    def work() -> None:
        with Interruptible() as interruptible:
            interruptible.check()
            went_well.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert went_well == [True]
