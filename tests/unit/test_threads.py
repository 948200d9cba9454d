from __future__ import annotations

import ctypes
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from genaug.threads import in_threads

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="lists threads in /proc")


def test_outcomes_come_in_the_order_of_the_items_and_hold_what_was_raised():
    def task(item):
        if item == 2:
            raise KeyError(item)
        return item * 10

    done = in_threads(task, [3, 2, 1], workers=2, description="")
    assert [done[0].result(), done[2].result()] == [30, 10]
    assert isinstance(done[1].exception(), KeyError)
    assert in_threads(task, [], workers=2, description="") == []


class SlowToEnd:
    """Work in a thread whose C libraries take their time when it ends, as those of OpenCV do; notes the thread."""

    def __init__(self, seconds):
        libc = ctypes.CDLL(None)
        self.libc, self.microseconds, self.key = libc, int(seconds * 1e6), ctypes.c_uint()
        destructor = ctypes.cast(libc.usleep, ctypes.c_void_p)
        assert libc.pthread_key_create(ctypes.byref(self.key), destructor) == 0
        self.natives = set()

    def __call__(self, _):
        self.natives.add(threading.get_native_id())
        self.libc.pthread_setspecific(self.key, ctypes.c_void_p(self.microseconds))

    def still_there(self):
        return self.natives & {int(task.name) for task in Path("/proc/self/task").iterdir()}


@linux
def test_the_threads_are_gone_from_the_system_when_it_returns():
    work = SlowToEnd(seconds=0.2)
    in_threads(work, range(4), workers=2, description="")
    assert work.natives
    assert not work.still_there()


@linux
def test_a_joined_pool_alone_would_leave_them():
    work = SlowToEnd(seconds=0.2)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(4)))
    assert work.still_there()
