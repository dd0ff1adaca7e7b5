# SPDX-License-Identifier: MIT
"""Servers that are reloaded again and again while clients shake hands all the time."""

import daemons
import pytest
import responder as r
from client import Load
from conftest import needs_root, plain_build_only
from servers import children
from support import scaled, wait_until

pytestmark = [needs_root, plain_build_only]

RELOADS = scaled(10, 100)
RENEWALS = 5  # every so many reloads bring a new certificate
DELAY = 0.1  # what its response takes

every_kind = pytest.mark.parametrize(
    "kind",
    [daemons.Nginx, daemons.ApachePrefork, daemons.ApacheEvent, daemons.Haproxy],
    ids=lambda kind: kind.__name__.lower(),
)


def reload(server):
    """Until no worker is left that was there before."""
    before = set(children(server.pid))
    server.reload()

    def all_are_new():
        now = set(children(server.pid))
        return now and not before & now

    wait_until(all_are_new, 60, what=server.log)


@every_kind
def test_no_handshake_fails_and_none_lacks_its_staple(daemon, kind, issue, responder, figure):
    leaves = [issue(behaviour=r.delayed(DELAY, r.good()))]
    store = daemon.directory / "store"
    store.mkdir(mode=0o755)
    server = daemon(kind, leaves[0], environment={"OCSPRELOAD_STORE": str(store)})
    with Load(server.port) as load:
        for number in range(1, RELOADS + 1):
            if number % RENEWALS == 0:
                leaves.append(issue(behaviour=r.delayed(DELAY, r.good())))
                server.renew(leaves[-1])
            reload(server)
            load.look()
    figure("reloads", RELOADS)
    figure("handshakes", load)
    assert load.counts["stapled"] >= RELOADS
    # Without the shim none is refused either: the sockets stay open.
    for name in ("unstapled", "refused", "failed", "hung"):
        assert load.counts[name] == 0, (str(load), server.log())
    # Each was asked for once, however often it was loaded.
    assert [responder.count(leaf) for leaf in leaves] == [1] * len(leaves)
    assert not server.shim_lines("error", "warning")
