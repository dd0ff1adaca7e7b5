# SPDX-License-Identifier: MIT
"""Debian's servers, as Debian runs them."""

import shutil

import daemons
import daemons_long
import daemons_net
import daemons_web
import hosts_table
import pytest
import responder as r
from client import assert_strict
from conftest import needs_root, plain_build_only
from OpenSSL import SSL
from servers import is_alive, tree
from support import wait_until

# Not under sanitizers, whose preloaded runtimes some of these do not survive, with us or without:
# under ASan, PostgreSQL waits for ever in bindtextdomain, even for --version, and vsftpd's limit of
# its address space leaves no room for the shadow memory.
pytestmark = [needs_root, plain_build_only]

DELAY = 0.15  # what a responder on the other side of the world takes

KINDS = [
    daemons.ApachePrefork,
    daemons.ApacheEvent,
    daemons.Haproxy,
    daemons.Lighttpd,
    daemons.Nginx,
    daemons.Stunnel,
    daemons.StunnelInJail,
    daemons.StunnelOfInetd,
    daemons.Postgresql,
    daemons.Redis,
    daemons.Postfix,
    daemons.PostfixWithStore,
    daemons.Proftpd,
    daemons.Gunicorn,
    daemons.Mosquitto,
    daemons.Unbound,
    daemons.Vsftpd,
    *daemons_web.KINDS,
    *daemons_net.KINDS,
    *daemons_long.KINDS,
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__.lower())
every_kind_that_reloads = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.reload_signal], ids=lambda kind: kind.__name__.lower()
)


@every_kind
def test_staples_from_the_first_handshake_on_and_asks_once(
    daemon, kind, issue, responder, tmp_path, seen
):
    leaf = issue(kind="rsa", behaviour=r.delayed(DELAY, r.good()))
    server = daemon(kind, leaf)
    assert_strict(server.handshake().staple, leaf, tmp_path)
    for tls in ("1.2", "1.3", "1.2", "1.3"):
        assert server.handshake(tls=tls).stapled, server.log()
    assert not kind.shares_cache or responder.count(leaf) == 1
    assert not server.shim_lines("error", "warning")
    seen(kind)


@every_kind
def test_serves_logs_and_ends_as_without_the_shim(daemon, kind, issue):
    seen, trouble = [], []
    leaf = issue(kind="rsa")
    for with_shim in (False, True):
        server = daemon(kind, leaf, with_shim)
        results = [server.handshake(tls=tls) for tls in ("1.3", "1.2")]
        results.append(server.handshake(ask=False))
        pids = tree(server.pid)
        status = server.stop()
        assert not any(map(is_alive, pids))
        answers = [(result.version, result.serial, result.answer[:12]) for result in results]
        seen.append((answers, status))
        trouble.append(server.trouble())
    assert seen[0] == seen[1]
    assert status == kind.exit_status
    assert not trouble[1] - trouble[0]


@every_kind_that_reloads
def test_a_renewed_certificate_is_stapled_from_its_first_handshake_on(
    daemon, kind, issue, responder, tmp_path
):
    old = issue(kind="rsa")
    new = issue(kind="rsa", behaviour=r.delayed(DELAY, r.good()))
    server = daemon(kind, old)
    assert server.handshake().stapled
    server.renew(new)
    server.reload()

    def meets_the_new_one():
        result = handshake_through_a_reload(server)
        assert result.stapled, server.log()
        return result.serial == new.serial and result

    assert_strict(wait_until(meets_the_new_one).staple, new, tmp_path)
    assert not kind.shares_cache or responder.count(old) == responder.count(new) == 1


def handshake_through_a_reload(server):
    """Servers that cut connections off when they reload do so without the shim, too."""
    result = None

    def is_answered():
        nonlocal result
        try:
            result = server.handshake()
        except (SSL.SysCallError, ConnectionError):
            if server.is_steady:
                raise
        return result

    return wait_until(is_answered)


@every_kind_that_reloads
def test_a_reload_costs_no_staple_and_no_request(daemon, kind, issue, responder, seen):
    leaf = issue(kind="rsa")
    server = daemon(kind, leaf)
    for _ in range(kind.reloads):
        server.reload()
        for _ in range(5):
            assert handshake_through_a_reload(server).stapled, server.log()
    assert not kind.keeps_cache or responder.count(leaf) == 1
    words = "stapled, no request" if kind.keeps_cache else "stapled"
    seen(kind, hosts_table.RELOAD, words if kind.needs_reload else "none needed, stapled")


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind.has_store], ids=lambda kind: kind.__name__.lower()
)
def test_a_restart_while_the_responder_is_down_staples_at_once(
    daemon, kind, issue, responder, tmp_path, seen
):
    leaf = issue(kind="rsa")
    store = daemon.directory / "store"
    store.mkdir(mode=0o700)
    if kind.user or kind.runs_as:
        shutil.chown(store, kind.user or kind.runs_as)
    environment = {"OCSPRELOAD_STORE": str(store)}
    server = daemon(kind, leaf, environment=environment)
    assert server.handshake().stapled, server.log()
    wait_until(lambda: list(store.glob("*.der")), what=server.log)
    server.stop()
    responder.stop()
    assert_strict(daemon(kind, leaf, environment=environment).handshake().staple, leaf, tmp_path)
    assert responder.count(leaf) == 1
    seen(kind, hosts_table.RESTART)


@pytest.mark.parametrize(
    "kind",
    [daemons.Stunnel, daemons.PostfixWithStore, daemons.DovecotWithStore, daemons.Proftpd],
    ids=lambda kind: kind.__name__.lower(),
)
def test_who_cannot_write_to_the_store_staples_at_once_what_another_put_there(
    daemon, kind, issue, responder, tmp_path
):
    leaf = issue(kind="rsa")
    store = daemon.directory / "store"
    store.mkdir(mode=0o755)
    environment = {"OCSPRELOAD_STORE": str(store)}
    assert daemon(daemons.Nginx, leaf, environment=environment).handshake().stapled
    wait_until(lambda: list(store.glob("*.der")))
    responder.stop()
    assert_strict(daemon(kind, leaf, environment=environment).handshake().staple, leaf, tmp_path)


def test_kamailio_staples_for_what_one_process_loads_for_all_that_had_nothing_before(
    daemon, issue, tmp_path
):
    """Its processes share their contexts, but not what was made after they were forked."""
    server = daemon(daemons_net.Kamailio, issue(kind="rsa", responder=None))
    assert not server.handshake().stapled
    processes = tree(server.pid)
    for _ in range(2):
        leaf = issue(kind="rsa")
        server.renew(leaf)
        server.reload()
        for _ in range(6):
            assert_strict(server.handshake().staple, leaf, tmp_path)
    assert tree(server.pid) == processes


def test_vsftpd_staples_from_the_first_handshake_of_each_start_on(daemon, issue):
    """Its children are raw clones, made while the thread is at work."""
    leaf = issue(kind="rsa")
    for _ in range(20):
        server = daemon(daemons.Vsftpd, leaf)
        for _ in range(3):
            result = server.handshake()
            assert result.stapled, server.log()
            assert result.answer.startswith(b"221")
        server.stop()
