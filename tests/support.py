# SPDX-License-Identifier: MIT
"""What several test modules need and no one owns."""

import os
import random
import socket
import time

# Set by scripts/endurance: the numbers that take minutes, or an hour, instead of seconds.
ENDURANCE = bool(os.environ.get("OCSPRELOAD_ENDURANCE"))


def scaled(number, full):
    """How often, or how long: in every run of the tests, and in those for endurance."""
    return full if ENDURANCE else number


def wait_until(predicate, timeout=20, interval=0.02, what=None):
    """Returns the first true value of predicate(); fails when there is none in time."""
    end = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > end:
            what = what() if callable(what) else what
            raise AssertionError(f"not within {timeout} s: {what or predicate}")
        time.sleep(interval)


def free_port():
    """
    A port on which nothing listens, below the range that outgoing connections take theirs from, so
    that it is still free after its server was stopped for a while.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 8
    while True:
        port = 10000 + 2500 * worker + random.randrange(2500)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        return port
