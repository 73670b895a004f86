import os
import signal
import threading

import pytest

from engine.system.signals import interrupt_signals, stop_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_sets_the_event_and_handlers_are_restored(number):
    before = signal.getsignal(number)

    with stop_signals() as stopping:
        os.kill(os.getpid(), number)
        stopped = stopping.wait(10)

    assert stopped
    assert signal.getsignal(number) == before


def test_a_second_interrupt_interrupts():
    def interrupted_twice():
        with stop_signals() as stopping:
            os.kill(os.getpid(), signal.SIGINT)
            assert stopping.wait(10)
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(10)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted_twice()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_is_answered_at_once(capfd):
    with stop_signals("stopping soon") as stopping:
        os.kill(os.getpid(), signal.SIGINT)
        stopping.wait(10)

    assert capfd.readouterr().err == "\nstopping soon\n"


def test_sigterm_can_interrupt():
    def terminated():
        with interrupt_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(10)

    before = signal.getsignal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        terminated()

    assert signal.getsignal(signal.SIGTERM) == before
