# SPDX-License-Identifier: MIT
"""
Servers that are reloaded, replaced and killed again and again while clients shake hands all the
time.
"""

import os
import pathlib
import random
import signal

import daemons
import pytest
import responder as r
from client import Load, assert_strict, handshake
from conftest import needs_root, plain_build_only
from servers import Nginx, Site, children, connections_in_hand, end_tree, is_alive
from support import scaled, wait_until

pytestmark = [needs_root, plain_build_only]

THREADS = 8  # that shake hands with nginx; HAProxy would take its time over so many
RELOADS = scaled(10, 100)
RENEWALS = 5  # every so many reloads bring a new certificate
DELAY = 0.1  # what its response takes
UPGRADES = scaled(3, 100)
KILLS = scaled(10, 100)


class NginxInForeground(daemons.Nginx):
    """As a supervisor wants it."""

    pid_file = None

    def command(self):
        return [*super().command(), "-g", "daemon off;"]


every_kind = pytest.mark.parametrize(
    "kind",
    [
        daemons.Nginx,
        NginxInForeground,
        daemons.ApachePrefork,
        daemons.ApacheEvent,
        daemons.Haproxy,
    ],
    ids=lambda kind: kind.__name__.lower(),
)
every_mode = pytest.mark.parametrize("mode", ["daemon", "foreground"])


def reload(server):
    """Until no worker is left that was there before."""
    before = set(children(server.pid))
    server.reload()

    def all_are_new():
        now = set(children(server.pid))
        return now and not before & now

    wait_until(all_are_new, 60, what=server.log)


def assert_none_missed(load, server):
    """Without the shim none is refused either: the sockets stay open."""
    for name in ("unstapled", "refused", "failed", "hung"):
        assert load.counts[name] == 0, (str(load), server.log()[-4000:])


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
    assert_none_missed(load, server)
    # Each was asked for once, however often it was loaded.
    assert [responder.count(leaf) for leaf in leaves] == [1] * len(leaves)
    assert not server.shim_lines("error", "warning")


@pytest.mark.parametrize(
    "upgrade",
    [Nginx.upgrade, Nginx.take_upgrade_back],
    ids=lambda upgrade: upgrade.__name__,
)
@pytest.mark.usefixtures("adopting")
def test_upgrades_in_place_while_the_responder_is_down_cost_no_staple(
    nginx, issue, responder, stored, upgrade, figure
):
    leaf = issue()
    server = nginx(leaf, environment=stored, keeping=True)
    with Load(server.port, THREADS) as load:
        wait_until(lambda: load.look()["stapled"])
        responder.stop()
        for _ in range(UPGRADES):
            before = load.look()["stapled"]
            upgrade(server)
            # By the one that is left alone.
            wait_until(lambda: load.look()["stapled"] > before, what=server.log)
    figure("upgrades", UPGRADES)
    figure("handshakes", load)
    assert_none_missed(load, server)
    assert responder.count(leaf) == 1


def stop_at_once(pid):
    os.kill(pid, signal.SIGSTOP)
    stat = pathlib.Path(f"/proc/{pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", interval=0.001)


@every_mode
@pytest.mark.usefixtures("adopting")
def test_the_death_of_a_worker_costs_only_what_it_had_in_hand(
    nginx, issue, responder, mode, figure
):
    leaf = issue()
    server = nginx(leaf, mode=mode, workers=3)
    random.seed(1)
    in_hand = 0
    with Load(server.port, THREADS) as load:
        for _ in range(KILLS):
            worker = random.choice(wait_until(server.workers))
            stop_at_once(worker)
            in_hand += connections_in_hand(worker, server.port)
            os.kill(worker, signal.SIGKILL)
            wait_until(lambda: len(set(server.workers()) - {worker}) == 3, what=server.log)
            before = load.look()["stapled"]
            wait_until(lambda: load.look()["stapled"] > before, what=server.log)
    cut_off = sum(load.counts[name] for name in ("refused", "failed", "silent"))
    figure("kills", KILLS)
    figure("handshakes", load)
    figure("cut off", f"{cut_off}, of {in_hand} that were in hand")
    assert load.counts["unstapled"] == load.counts["hung"] == 0, (str(load), server.log()[-4000:])
    assert cut_off <= in_hand, (str(load), server.log()[-4000:])
    assert responder.count(leaf) == 1


@every_mode
@pytest.mark.usefixtures("adopting")
def test_the_death_of_the_master_costs_nothing_and_its_successor_staples_at_once(
    nginx, issue, responder, stored, mode, tmp_path, figure
):
    leaf = issue(behaviour=r.soon_due())
    lasting = issue("lasting.test")
    server = nginx(leaf, Site(lasting, name="lasting.test"), mode=mode, environment=stored)
    orphans = wait_until(lambda: len(server.workers()) == 2 and server.workers())
    with Load(server.port, THREADS) as load:
        os.kill(server.pid, signal.SIGKILL)
        killed = responder.count(leaf)
        # They have lost who fetched for them.
        wait_until(lambda: responder.count(leaf) > killed, what=server.log)
        assert all(map(is_alive, orphans))
    figure("handshakes", load)
    assert_none_missed(load, server)
    responder.stop()
    for orphan in orphans:
        end_tree(orphan, signal.SIGQUIT)
    server.start()
    first = handshake(server.port, "lasting.test")
    assert_strict(first.staple, lasting, tmp_path)
    assert responder.count(lasting) == 1
