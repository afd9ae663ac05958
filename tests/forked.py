"""Children of a test, which may hang or crash."""

from __future__ import annotations

import os
import signal
import time
import traceback

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

PATIENCE = 60


def begin(work):
    """Fork a child that works and ends; return its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        os._exit(status)


def status(child, patience=PATIENCE):
    """How a child ended; it is killed when that takes too long."""
    until = time.monotonic() + patience
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(ended[1])


def fork(work):
    """Fork a child, and wait for it."""
    return status(begin(work))
