import os
import signal
import threading

import pytest

from mprm_jax.train.interruption import stoppable


def test_a_signal_is_noted_and_a_second_raises():
    with pytest.raises(KeyboardInterrupt), stoppable() as stop:  # noqa: PT012
        assert stop.signal is None
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second signal did not raise")


def test_termination_leaves_with_its_status():
    with pytest.raises(SystemExit) as left, stoppable() as stop:  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        stop.leave()
    assert left.value.code == 143


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stoppable():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_other_threads_leave_signals_alone():
    handlers = []

    def body():
        with stoppable() as stop:
            handlers.append((signal.getsignal(signal.SIGINT), stop.signal))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert handlers == [(signal.getsignal(signal.SIGINT), None)]
