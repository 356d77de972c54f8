"""How a loader of images ends when one of its processes has died."""

import os
import signal
import sys

import pytest

from hfgen.data.loading import end_workers


class Loader:
    """As torch's, while whose processes are ended one more dies."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGCHLD)


def fail():
    loader = Loader()  # noqa: F841 - lives in the frame that the error remembers
    raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")


@pytest.fixture
def unraisable(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    return told


@pytest.fixture
def handler():
    def raising(*_):
        raise RuntimeError("DataLoader worker (pid 2) is killed by signal: Killed.")

    before = signal.signal(signal.SIGCHLD, raising)
    yield raising
    signal.signal(signal.SIGCHLD, before)


def test_a_process_that_dies_while_others_are_ended_is_not_told(unraisable, handler):
    try:
        fail()
    except RuntimeError as error:
        end_workers(error)
    assert unraisable == []
    assert signal.getsignal(signal.SIGCHLD) is handler
