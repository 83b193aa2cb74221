from __future__ import annotations

import os
import signal
import threading

import pytest

from noisette.training.signals import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_wish(number: int) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.asked
        os.kill(os.getpid(), number)
        assert stop.asked
    assert signal.getsignal(number) is before


def test_the_second_ctrl_c_kills() -> None:
    # A shell starts its background jobs deaf to Ctrl-C, and the tests may be one.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_nothing_is_caught() -> None:
    seen: list[bool] = []

    def work() -> None:
        with StopRequest() as stop:
            seen.append(stop.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
