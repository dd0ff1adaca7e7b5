# SPDX-License-Identifier: MIT
"""A revocation reaches every process of the machine at once, whoever learns of it."""

import os
import subprocess
import time

import pytest
import responder as r
from client import handshake
from servers import BUILD, tree
from support import seconds_since, wait_until

# What may pass until all have seen it: a second, and what a busy machine takes.
SOON = 3


def fetch(leaf, environment):
    """By the tool, whether or not it is time to: what it said."""
    inherited = {name: value for name, value in os.environ.items() if "OCSPRELOAD" not in name}
    ran = subprocess.run(
        [str(BUILD / "ocspctl"), "fetch", "-f", str(leaf.chain_file)],
        capture_output=True,
        text=True,
        env={**inherited, **environment},
        timeout=60,
    )
    return ran.stdout


def seconds_until_dropped(server):
    began = time.monotonic()
    wait_until(lambda: not handshake(server.port).stapled, what=server.log)
    return seconds_since(began)


def test_what_one_process_learns_all_others_know(nginx, s_server, issue, responder, store, stored):
    leaf = issue()
    servers = [nginx(leaf, environment=stored), nginx(leaf, environment=stored)]
    for server in servers:
        assert handshake(server.port).stapled
    assert responder.count(leaf) == 1
    # They would not ask again for half an hour. A third knows nothing, and does.
    (file,) = wait_until(lambda: list(store.glob("*.der")))
    file.unlink()
    responder.answer(leaf, r.revoked())
    third = s_server(leaf, environment=stored)
    assert not handshake(third.port).stapled
    wait_until(lambda: list(store.glob("*.der")))
    for server in servers:
        assert seconds_until_dropped(server) < SOON
        # In all its workers, for good.
        assert not any(handshake(server.port).stapled for _ in range(10))
        (line,) = wait_until(lambda s=server: s.shim_lines("error"))
        assert "revoked since" in line and "says the store; stapling nothing; asking again" in line
    assert responder.count(leaf) == 2


def test_it_is_dropped_without_any_handshake(nginx, issue, responder, stored):
    leaf = issue()
    server = nginx(leaf, environment=stored)
    assert handshake(server.port).stapled
    wait_until(lambda: "ocspreload" in server.threads())
    responder.answer(leaf, r.revoked())
    assert fetch(leaf, stored).startswith("revoked: ")
    wait_until(lambda: server.shim_lines("error"), 2 * SOON, what=server.log)
    assert not handshake(server.port).stapled


@pytest.mark.parametrize("behaviour", [r.good(), r.soon_due(20)], ids=["long", "short"])
def test_a_host_that_must_not_fetch_drops_it_too(s_server, issue, responder, stored, behaviour):
    """Also in its startup window, in which it would not look for anything better."""
    leaf = issue(behaviour=behaviour)
    fetch(leaf, stored)
    more = {"OCSPRELOAD_FETCH": "off", "OCSPRELOAD_STARTUP_WAIT": "1m"}
    server = s_server(leaf, environment={**stored, **more})
    assert handshake(server.port).stapled
    responder.answer(leaf, r.revoked())
    fetch(leaf, stored)
    assert seconds_until_dropped(server) < SOON
    assert "ocspreload" not in server.threads()
    # Taken off hold.
    responder.answer(leaf, r.good())
    fetch(leaf, stored)
    wait_until(lambda: handshake(server.port).stapled, 2 * SOON, what=server.log)
    assert responder.count(leaf) == 3


def test_what_the_tool_fetches_is_stapled_at_once(s_server, nginx, issue, responder, stored):
    leaf = issue()
    first = [
        s_server(leaf, environment={**stored, "OCSPRELOAD_FETCH": "off"}),
        nginx(leaf, environment=stored),
    ]
    before = wait_until(lambda: handshake(first[0].port).staple)
    responder.answer(leaf, r.good(7200))
    fetch(leaf, stored)
    for server in first:
        wait_until(lambda s=server: handshake(s.port).staple not in (before, None), 2 * SOON)
    assert responder.count(leaf) == 2


def test_a_revocation_is_not_asked_for_again_before_its_next_update(
    nginx, issue, responder, stored
):
    leaf = issue(behaviour=r.revoked(validity=14))
    servers = [nginx(leaf, environment=stored) for _ in range(2)]
    began = time.monotonic()
    while time.monotonic() < began + 5:
        assert not any(handshake(server.port).stapled for server in servers)
    # Then it is, and by one of them.
    responder.answer(leaf, r.good())
    for server in servers:
        wait_until(lambda s=server: handshake(s.port).stapled, what=server.log)
    # Twice; or once more where the first five seconds took longer than a revocation lasts.
    times = [asked.at for asked in responder.asked_for(leaf)]
    assert len(times) >= 2
    assert all(later - earlier >= 13 for earlier, later in zip(times, times[1:]))


def test_a_quiet_host_costs_one_look_a_second(nginx, issue, responder, stored):
    """Neither a second thread's nor a busy one's."""
    leaf = issue()
    server = nginx(leaf, environment=stored)
    assert handshake(server.port).stapled
    pid = wait_until(lambda: leader(server), what=server.log)
    before, began = switches(pid), time.monotonic()
    wait_until(lambda: time.monotonic() > began + 4)
    # One sleep each, and what else the kernel makes of it.
    assert switches(pid) - before <= 4 * (time.monotonic() - began)


def leader(server):
    """/proc's directory of the thread that has fetched: the only one that wakes up."""
    threads = [
        f"/proc/{pid}/task/{task}"
        for pid in tree(server.pid)
        for task in os.listdir(f"/proc/{pid}/task")
        if open(f"/proc/{pid}/task/{task}/comm").read().strip() == "ocspreload"
    ]
    counts = {thread: switches(thread) for thread in threads}
    return max(counts, key=counts.get) if counts else None


def switches(thread):
    with open(f"{thread}/status") as status:
        for line in status:
            if line.startswith("voluntary_ctxt_switches"):
                return int(line.split()[1])
    return 0
