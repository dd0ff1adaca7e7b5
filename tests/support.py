# SPDX-License-Identifier: MIT
"""What several test modules need and no one owns."""

import functools
import itertools
import os
import random
import socket
import threading
import time

# Set by scripts/endurance: the numbers that take minutes, or an hour, instead of seconds.
ENDURANCE = bool(os.environ.get("OCSPRELOAD_ENDURANCE"))


def scaled(number, full):
    """How often, or how long: in every run of the tests, and in those for endurance."""
    return full if ENDURANCE else number


class _Standstills:
    """
    When this process did not run although it wanted to, because the machine had stopped, or was
    busy with others: what takes longer for that is not slow.
    """

    TICK = 0.02
    LEAST = 0.1

    def __init__(self):
        self._spans = []
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self):
        self._lock = threading.Lock()
        self._awake = time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        while True:
            time.sleep(self.TICK)
            self._look()

    def _look(self):
        with self._lock:
            now = time.monotonic()
            if now - self._awake > self.LEAST:
                self._spans.append((self._awake, now))
            self._awake = now

    def between(self, began, ended):
        # One that has just ended may not be known yet.
        self._look()
        overlaps = (min(ended, end) - max(began, start) for start, end in self._spans)
        return sum(overlap for overlap in overlaps if overlap > 0)


_standstills = _Standstills()


def seconds_between(began, ended):
    """Of time.monotonic(), without those in which this process stood still."""
    return ended - began - _standstills.between(began, ended)


def seconds_since(began):
    return seconds_between(began, time.monotonic())


def wait_until(predicate, timeout=60, interval=0.02, what=None):
    """Returns the first true value of predicate(); fails when there is none in time."""
    began = time.monotonic()
    while True:
        value = predicate()
        if value:
            return value
        if seconds_since(began) > timeout:
            what = what() if callable(what) else what
            raise AssertionError(f"not within {timeout} s: {what or predicate}")
        time.sleep(interval)


# Below the range that outgoing connections take theirs from.
PORTS = range(10000, 32000)
PORTS_AT_ONCE = 500  # of one process


@functools.lru_cache(maxsize=None)
def _ports():
    """An endless row of ports, two apart, that no other process of any tests is given."""
    parts = list(range(PORTS.start, PORTS.stop, PORTS_AT_ONCE))
    random.shuffle(parts)
    for first in parts:
        mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            mark.bind(f"\0ocspreload-test-ports-{first}")
        except OSError:
            mark.close()
            continue
        # Some servers listen at the next one, too.
        return mark, itertools.cycle(range(first, first + PORTS_AT_ONCE, 2))
    raise AssertionError("all ports are in use by other tests")


def free_port():
    """
    A port on which nothing listens, nor at the next one. It is given to nobody else for long, so
    that it is still free when its server begins to listen, or was stopped for a while.
    """
    while True:
        port = next(_ports()[1])
        with socket.socket() as probe, socket.socket() as another:
            try:
                probe.bind(("", port))
                another.bind(("", port + 1))
            except OSError:
                continue
        return port
