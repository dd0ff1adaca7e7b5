# SPDX-License-Identifier: MIT
"""A responder that is bad delays its own certificates, and nobody else's."""

import time

import pytest
import responder as r
from client import assert_strict, handshake
from support import seconds_between

# What one answer takes: a delay of a tenth of it is more than a busy machine adds by itself, mostly.
LATENCY = 2
ATTEMPTS = 3
BESIDE = 3

BAD = {
    "hangs": r.hanging(),
    "drips": r.dripping(r.good()),
    "never ends": r.endless(r.good()),
    "announces 10 GB": r.headers(r.close_delimited(r.good()), ("Content-Length", "10737418240")),
    "closes at once": r.hanging_up(),
}


@pytest.fixture
def bad_responder():
    with r.Responder() as running:
        yield running


@pytest.fixture
def time_to_staple(python_server, issue, authority, responder, bad_responder, tmp_path):
    """
    Starts a server with certificates of a responder that behaves so, and one of a good one. Returns
    the seconds from the first request that it made to that one's first staple.
    """

    def measure(behaviour):
        leaves = []
        for _ in range(BESIDE):
            leaves.append(authority.issue("bad.test", responder=bad_responder.url))
            bad_responder.answer(leaves[-1], behaviour)
        good = issue("good.test", behaviour=r.delayed(LATENCY, r.good()))
        files = [leaf.pem_file for leaf in (*leaves, good)]
        server = python_server(
            files[0],
            *(f"bad{number}.test={file}" for number, file in enumerate(files[1:-1])),
            f"good.test={files[-1]}",
            environment={"OCSPRELOAD_STARTUP_WAIT": "60s", "OCSPRELOAD_TIMEOUT": "30s"},
        )
        staple = handshake(server.port, "good.test").staple
        end = time.monotonic()
        assert_strict(staple, good, tmp_path)
        asked = responder.asked_for(good)
        for leaf in leaves:
            asked += bad_responder.asked_for(leaf)
        server.stop()
        return seconds_between(min(one.at for one in asked), end)

    return measure


@pytest.mark.parametrize("behaviour", BAD.values(), ids=BAD.keys())
def test_a_bad_responder_does_not_delay_the_certificate_of_another(time_to_staple, behaviour):
    ratios = []
    # Noise comes and goes, what is built in stays.
    while not ratios or (ratios[-1] >= 1.1 and len(ratios) < ATTEMPTS):
        # As many certificates to load and to ask for: a slow machine has its work with them.
        without = time_to_staple(r.good())
        ratios.append(time_to_staple(behaviour) / without)
    assert ratios[-1] < 1.1, ratios
