# SPDX-License-Identifier: MIT
"""A fleet of machines that share one fetch through an ordinary HTTP cache (docs/fleets.md)."""

import contextlib
import email.utils
import time

import pytest
import responder as r
from client import assert_strict, handshake
from conftest import needs_root, plain_build_only
from cryptography.x509 import ocsp
from fleet import HUB, MachineServer, Network, Squid
from support import wait_until

MACHINES = 8
LIFE = 16

pytestmark = [needs_root, plain_build_only]


def cacheable(leaf):
    """As RFC 5019, 6.2 wants it; a newer answer is there at half of its life."""
    how_long = ("Cache-Control", f"public, max-age={LIFE // 2}")
    date = ("Date", email.utils.formatdate(usegmt=True))
    return r.headers(r.good(validity=LIFE), how_long, date)(leaf)


@pytest.fixture
def network():
    with Network(MACHINES) as made:
        yield made


@pytest.fixture
def hub_responder(network):
    with network.hub.inside():
        responder = r.Responder(HUB).start()
    yield responder
    responder.stop()


@pytest.fixture
def squid(network, public):
    with Squid(public, network.hub) as running:
        yield running


class Fleet:
    """One server on each machine, all with the same certificate."""

    def __init__(self, servers, machines):
        self.servers = servers
        self._machines = machines

    def staples(self):
        """What each machine staples now. None is among them where nothing is."""
        staples = []
        for server, machine in zip(self.servers, self._machines):
            with machine.inside():
                staples.append(handshake(server.port).staple)
        return staples

    def log(self):
        return "\n".join(server.log() for server in self.servers)


@pytest.fixture
def fleet(network, squid, hub_responder, authority, shim, tmp_path):
    leaf = authority.issue("localhost", responder=hub_responder.url)
    hub_responder.answer(leaf, cacheable)
    shim.variables["OCSPRELOAD_HTTP_PROXY"] = f"{squid.url} direct"
    shim.variables["OCSPRELOAD_TIMEOUT"] = "5s"
    with contextlib.ExitStack() as stack:
        servers = []
        for number, machine in enumerate(network.machines):
            directory = tmp_path / f"machine-{number}"
            directory.mkdir()
            servers.append(MachineServer(directory, shim, leaf, machine))
            stack.enter_context(servers[-1])
        yield Fleet(servers, network.machines), leaf


def this_update(staple):
    return ocsp.load_der_ocsp_response(staple).this_update


def watch(fleet, seconds, until=lambda: False):
    """All responses that were stapled meanwhile, with no handshake left without one."""
    seen = set()
    end = time.monotonic() + seconds
    while time.monotonic() < end and not until():
        staples = fleet.staples()
        assert all(staples), fleet.log()
        seen.update(staples)
        time.sleep(0.2)
    return seen


def test_a_fleet_costs_the_responder_one_request_per_refresh(fleet, hub_responder, squid, tmp_path):
    servers, leaf = fleet
    for staple in servers.staples():
        assert_strict(staple, leaf, tmp_path)
    assert hub_responder.count(leaf) == 1, squid.log()
    seen = watch(servers, 2.2 * LIFE)

    def each_was_seen():
        seen.update(servers.staples())
        return len(seen) == hub_responder.count(leaf)

    # Each that was fetched was stapled; and if one was stapled by a single machine only, the others
    # would have had a newer one at the responder's cost.
    wait_until(each_was_seen, what=squid.log)
    at = [asked.at for asked in hub_responder.asked_for(leaf)]
    assert len(at) >= 4, squid.log()
    # From half-life on; what is asked sooner is answered by the cache.
    assert len(at) <= 1 + (at[-1] - at[0]) / (LIFE / 2) + 1, squid.log()
    wait_until(lambda: len(squid.answers()) >= MACHINES * (len(seen) - 1), what=squid.log)


def test_every_machine_goes_on_by_itself_while_the_cache_is_down(
    fleet, hub_responder, squid, tmp_path
):
    servers, leaf = fleet
    assert all(servers.staples())
    squid.stop()
    stopped = max(map(this_update, servers.staples()))
    # Long after the last response of the cache has died.
    watch(servers, 1.5 * LIFE)
    assert min(map(this_update, servers.staples())) > stopped
    for staple in servers.staples():
        assert_strict(staple, leaf, tmp_path)
    assert len({asked.client[0] for asked in hub_responder.asked_for(leaf)}) == 1 + MACHINES
    # And comes back to it.
    squid.start()
    asked = len(squid.answers())
    wait_until(lambda: len(squid.answers()) >= asked + MACHINES, 5 * LIFE)
    assert all(servers.staples())
