# SPDX-License-Identifier: MIT
"""What happens as time goes by: responses age, responders come and go."""

import ca
import pytest
import responder as r
from client import assert_strict, handshake
from cryptography.x509 import ocsp
from support import wait_until

IMPATIENT = {"OCSPRELOAD_STARTUP_WAIT": "300ms"}


def assert_in_time(staple, asked_at):
    """Not even a second late: nextUpdate has whole seconds, and so has asked_at."""
    assert ocsp.load_der_ocsp_response(staple).next_update >= asked_at


def staple_now(server):
    """The staple of a handshake, or None; one that is out of time fails the test."""
    began = ca.now()
    staple = handshake(server.port).staple
    if staple:
        assert_in_time(staple, began)
    return staple


def test_a_response_of_seconds_is_refreshed_before_it_ends(nginx, issue, responder, tmp_path):
    leaf = issue(behaviour=r.good(validity=10, this_update=-4))
    server = nginx(leaf)
    seen = set()

    def three_were_seen():
        staple = staple_now(server)
        assert staple, server.log()
        seen.add(staple)
        return len(seen) >= 3

    wait_until(three_were_seen, interval=0.1)
    assert_strict(staple_now(server), leaf, tmp_path)
    # Refreshed, not hammered: from half-life on means less than one request in two seconds.
    assert responder.count(leaf) <= 6


def test_a_fresh_response_of_days_is_not_asked_for_again(nginx, issue, responder):
    leaf = issue(behaviour=r.good(validity=7 * 86400))
    server = nginx(leaf)
    for _ in range(50):
        assert handshake(server.port).stapled
    assert responder.count(leaf) == 1


def test_a_good_response_is_dropped_when_a_newer_one_says_revoked(nginx, issue, responder):
    leaf = issue(behaviour=r.soon_due())
    server = nginx(leaf)
    assert staple_now(server)
    responder.answer(leaf, r.revoked())
    wait_until(lambda: any("revoked" in line for line in server.shim_lines("error")))
    for _ in range(10):
        assert not staple_now(server)


def test_an_older_response_does_not_undo_a_revocation(nginx, issue, responder):
    leaf = issue(behaviour=r.soon_due())
    server = nginx(leaf)
    assert staple_now(server)
    responder.answer(leaf, r.revoked(validity=2))
    wait_until(lambda: any("revoked" in line for line in server.shim_lines("error")))
    before = responder.count(leaf)
    responder.answer(leaf, r.good(this_update=-600))
    wait_until(lambda: responder.count(leaf) >= before + 2)
    assert not staple_now(server)


@pytest.mark.parametrize(
    "failure", [None, r.error("TRY_LATER"), r.http_status(500, r.good()), r.unknown()],
    ids=["down", "tryLater", "500", "unknown"],
)
def test_a_good_response_is_stapled_to_its_end_and_no_longer_while_the_responder_fails(
    nginx, issue, responder, failure, tmp_path
):
    leaf = issue(behaviour=r.good(validity=9))
    server = nginx(leaf)
    held = staple_now(server)
    assert held
    if failure:
        responder.answer(leaf, failure)
    else:
        responder.stop()
    end = ocsp.load_der_ocsp_response(held).next_update

    def ended():
        staple = staple_now(server)
        # One that began in time may have come too late; a missing one is early only before.
        assert staple or ca.now() >= end, server.log()
        return not staple

    wait_until(ended)
    if failure:
        responder.answer(leaf, r.good())
    else:
        responder.start()
    assert_strict(wait_until(lambda: staple_now(server)), leaf, tmp_path)


def test_a_staple_ends_with_its_delegated_signer(nginx, issue, responder):
    leaf = issue(behaviour=r.delegated(validity=3600, not_after=10))
    server = nginx(leaf)
    assert staple_now(server)
    responder.answer(leaf, r.error("TRY_LATER"))
    end = ca.now() + ca.seconds(11)
    wait_until(lambda: ca.now() > end)
    assert not staple_now(server)


@pytest.mark.parametrize("mode", ["daemon", "foreground"])
def test_a_responder_that_is_down_at_the_start_is_used_when_it_comes_back(
    nginx, issue, responder, mode, tmp_path
):
    leaf = issue()
    responder.stop()
    server = nginx(leaf, mode=mode, environment=IMPATIENT)
    result = handshake(server.port)
    assert result.serial == leaf.serial and not result.stapled
    wait_until(lambda: server.shim_lines("warning"), what=server.log)
    responder.start()
    assert_strict(wait_until(lambda: handshake(server.port).staple), leaf, tmp_path)


def test_a_failing_responder_is_not_hammered(nginx, issue, responder):
    leaf = issue(behaviour=r.error("INTERNAL_ERROR"))
    nginx(leaf, environment=IMPATIENT)
    wait_until(lambda: responder.count(leaf) >= 4)
    times = [asked.at for asked in responder.asked_for(leaf)]
    gaps = [later - earlier for earlier, later in zip(times, times[1:])]
    # 1, 2 and 4 seconds, of which jitter may take the half.
    assert gaps[0] >= 0.4 and gaps[1] >= 0.9 and gaps[2] >= 1.9


def test_no_handshake_waits_once_the_startup_window_is_over(nginx, issue, responder):
    leaf = issue(behaviour=r.hanging())
    server = nginx(
        leaf,
        mode="foreground",
        environment={"OCSPRELOAD_STARTUP_WAIT": "300ms", "OCSPRELOAD_TIMEOUT": "60s"},
    )
    wait_until(lambda: responder.count(leaf) == 1, what=server.log)
    assert not handshake(server.port).stapled
    # The exchange hangs for a minute; nobody else does.
    assert all(handshake(server.port).seconds < 3 for _ in range(10))
    assert responder.count(leaf) == 1


def test_a_responder_may_say_that_it_has_nothing_newer(s_server, issue, responder):
    leaf = issue(behaviour=r.headers(r.soon_due(24), ("ETag", '"first"')))
    server = s_server(leaf)
    first = staple_now(server)
    responder.answer(leaf, r.http_status(304, r.empty()))
    wait_until(lambda: responder.count(leaf) >= 2)
    asked = responder.asked_for(leaf)
    assert "If-None-Match" not in asked[0].headers
    assert asked[1].headers["If-None-Match"] == '"first"'
    wait_until(lambda: "has nothing newer yet" in server.log())
    assert staple_now(server) == first
    # And what comes in the end is taken.
    responder.answer(leaf, r.good(validity=20))
    wait_until(lambda: staple_now(server) not in (None, first))


def test_who_says_for_ever_that_there_is_nothing_newer_is_asked_for_all_of_it_in_time(
    s_server, issue, responder
):
    tag = ("ETag", '"never another"')
    leaf = issue(behaviour=r.headers(r.soon_due(24), tag))
    server = s_server(leaf)
    first = staple_now(server)

    def answer(leaf):
        is_known = "If-None-Match" in responder.asked_for(leaf)[-1].headers
        newer = r.headers(r.good(validity=3600), tag)
        return (r.http_status(304, r.empty()) if is_known else newer)(leaf)

    responder.answer(leaf, answer)
    staples = []
    wait_until(lambda: staples.append(staple_now(server)) or staples[-1] != first, 60)
    assert staples[-1] is not None, server.log()
    assert "has nothing newer yet" in server.log()
