# SPDX-License-Identifier: MIT
"""An unmodified nginx, with nothing in its configuration about stapling."""

import concurrent.futures
import os
import signal
import time

import hosts_table
import pytest
import responder as r
from client import Client, assert_strict, handshake, s_client, staples_until
from servers import HAS_SIGNALS_AFTER_FORK, Nginx, Site
from support import wait_until

VERSIONS = ["1.2", "1.3"]

needs_signals = pytest.mark.skipif(
    not HAS_SIGNALS_AFTER_FORK, reason="ThreadSanitizer holds signals back from the child of a fork, a daemon"
)


@pytest.mark.parametrize("tls", VERSIONS)
def test_staples_the_answer_of_a_real_responder_on_its_first_handshake(
    nginx, authority, openssl_responder, tls, tmp_path
):
    leaf = authority.issue("localhost", responder=openssl_responder.url)
    openssl_responder.add(leaf)
    openssl_responder.start()
    server = nginx(leaf)
    first = handshake(server.port, tls=tls)
    assert_strict(first.staple, leaf, tmp_path)
    assert openssl_responder.count == 1


@pytest.mark.parametrize("kind", ["rsa", "ec"])
@pytest.mark.parametrize("mode", ["daemon", "foreground", "single"])
def test_staples_from_the_first_handshake_on(
    nginx, issue, responder, mode, kind, tmp_path, seen
):
    leaf = issue(kind=kind)
    server = nginx(leaf, mode=mode)
    for _ in range(5):
        assert_strict(handshake(server.port).staple, leaf, tmp_path)
    assert responder.count(leaf) == 1
    seen(Nginx)


def test_twenty_cold_starts_are_stapled_at_once_with_a_responder_of_200_ms(
    nginx, issue, responder
):
    for _ in range(20):
        leaf = issue(behaviour=r.delayed(0.2, r.good()))
        with_shim = nginx(leaf)
        assert handshake(with_shim.port).stapled, with_shim.log()
        assert responder.count(leaf) == 1
        with_shim.stop()


def test_so_is_a_cold_start_that_waits_no_longer_than_by_default(nginx, issue):
    """On a machine that stands still for seconds it is not; but that comes and goes."""

    def is_stapled():
        leaf = issue(behaviour=r.delayed(0.2, r.good()))
        server = nginx(leaf, environment={"OCSPRELOAD_STARTUP_WAIT": None})
        stapled = handshake(server.port).stapled
        server.stop()
        return stapled

    assert any(is_stapled() for _ in range(5))


def test_all_workers_staple_what_was_fetched_once(nginx, issue, responder):
    leaf = issue()
    server = nginx(leaf, workers=3, listen="reuseport")
    seen = {}

    def every_worker_was_met():
        result = handshake(server.port)
        seen.setdefault(int(result.body), set()).add(result.staple)
        return len(seen) == 3

    wait_until(every_worker_was_met)
    assert set(seen) == set(server.workers())
    assert len(set.union(*seen.values())) == 1 and None not in set.union(*seen.values())
    assert responder.count(leaf) == 1


def test_keeps_refreshing_after_the_daemon_has_forked_with_nobody_connecting(
    nginx, issue, responder, tmp_path
):
    leaf = issue(behaviour=r.soon_due())
    server = nginx(leaf)
    wait_until(lambda: responder.count(leaf) >= 3)
    assert_strict(handshake(server.port).staple, leaf, tmp_path)


def test_only_one_process_of_the_tree_fetches(nginx, issue, responder):
    leaf = issue(behaviour=r.soon_due())
    server = nginx(leaf, workers=4)
    first = wait_until(lambda: responder.count(leaf) >= 2 and responder.count(leaf))
    began = time.monotonic()
    staples = {handshake(server.port).staple for _ in range(20)}
    assert None not in staples
    # A refresh may fall in between, and more of them if that took seconds; four processes that each
    # did it would make it more.
    assert responder.count(leaf) <= first + 1 + int(time.monotonic() - began)


def test_goes_on_when_the_workers_are_killed_one_after_the_other(nginx, issue, responder):
    leaf = issue(behaviour=r.soon_due())
    # The master must learn of their deaths by SIGCHLD.
    server = nginx(leaf, mode="daemon" if HAS_SIGNALS_AFTER_FORK else "foreground")
    assert handshake(server.port).stapled
    for worker in server.workers():
        os.kill(worker, signal.SIGKILL)
        before = responder.count(leaf)
        wait_until(lambda: responder.count(leaf) > before, what=server.log)
    wait_until(lambda: handshake(server.port).stapled)


def test_stapling_that_nginx_does_itself_is_left_alone(nginx, issue, tmp_path):
    leaf = issue()
    file = tmp_path / "own.der"
    file.write_bytes(r.good(7200)(leaf).body)
    server = nginx(leaf, extra=f"ssl_stapling on; ssl_stapling_file {file};")
    for tls in VERSIONS:
        for _ in range(3):
            assert handshake(server.port, tls=tls).staple == file.read_bytes()


def test_staples_after_a_hello_retry_request(nginx, issue):
    leaf = issue()
    server = nginx(leaf, extra="ssl_ecdh_curve secp384r1;")
    result = s_client(server.port, "-tls1_3", "-groups", "X25519:P-384", "-msg")
    assert result.client_hellos == 2, result.output
    assert result.good_serial == leaf.serial, result.output
    assert result.exit_code == 0


@pytest.mark.parametrize("tls", VERSIONS)
def test_a_resumed_session_goes_on_as_ever(nginx, issue, tls, tmp_path):
    leaf = issue()
    server = nginx(leaf)
    client = Client(tls=tls)
    first = client.handshake(server.port)
    assert_strict(first.staple, leaf, tmp_path)
    second = client.handshake(server.port, session=first.session)
    assert second.resumed
    # What a client is shown of a resumption is the session's; nobody sends it again.
    assert second.staple in (None, first.staple)
    assert handshake(server.port, tls=tls).stapled


@pytest.mark.parametrize("tls", VERSIONS)
def test_a_client_that_does_not_ask_gets_none(nginx, issue, tls):
    leaf = issue()
    server = nginx(leaf)
    result = handshake(server.port, tls=tls, ask=False)
    assert result.serial == leaf.serial and not result.stapled
    assert handshake(server.port, tls=tls).stapled


@pytest.mark.parametrize("tls", VERSIONS)
def test_each_name_gets_the_staple_of_its_own_certificate(nginx, issue, responder, tls, tmp_path):
    one, two = issue("one.test"), issue("two.test", kind="rsa")
    server = nginx(Site(one, name="one.test"), Site(two, name="two.test"))
    assert_strict(handshake(server.port, "two.test", tls=tls).staple, two, tmp_path)
    assert_strict(handshake(server.port, "one.test", tls=tls).staple, one, tmp_path)
    assert_strict(handshake(server.port, None, tls=tls).staple, one, tmp_path)
    assert responder.count(one) == responder.count(two) == 1


@pytest.mark.parametrize("tls", VERSIONS)
def test_an_rsa_and_an_ecdsa_certificate_of_one_site_are_told_apart(
    nginx, issue, ec_authority, tls, tmp_path
):
    rsa, ec = issue(kind="rsa"), issue(kind="ec", by=ec_authority)
    server = nginx(Site(rsa, ec))
    assert_strict(handshake(server.port, tls=tls, kind="rsa").staple, rsa, tmp_path)
    assert_strict(handshake(server.port, tls=tls, kind="ec").staple, ec, tmp_path)


def test_certificates_that_are_loaded_for_each_handshake_are_stapled(nginx, issue, tmp_path):
    leaf = issue("localhost")
    (tmp_path / "localhost.crt").write_bytes(leaf.chain_file.read_bytes())
    (tmp_path / "localhost.key").write_bytes(leaf.key_file.read_bytes())
    site = Site(
        extra=f"ssl_certificate {tmp_path}/$ssl_server_name.crt;"
        f"ssl_certificate_key {tmp_path}/$ssl_server_name.key;"
    )
    # The workers read these files themselves.
    server = nginx(site, user="root")
    assert_strict(handshake(server.port).staple, leaf, tmp_path)


def test_a_certificate_without_a_responder_delays_nothing(nginx, authority):
    leaf = authority.issue("localhost")
    server = nginx(leaf, environment={"OCSPRELOAD_STARTUP_WAIT": "1m"})
    result = handshake(server.port)
    assert result.serial == leaf.serial and not result.stapled
    assert result.seconds < 20
    assert not server.shim_lines("error", "warning")


def test_ending_nginx_is_as_before(nginx, issue):
    leaf = issue()
    for how in (signal.SIGTERM, signal.SIGQUIT):
        server = nginx(leaf, mode="foreground")
        assert handshake(server.port).stapled, server.log()
        assert server.stop(how) == 0, server.log()
        assert "exited on signal" not in server.log()


class NginxThatIsWaitedFor(Nginx):
    """Its clients are at the door before it has forked a worker, and are its first."""

    def wait_ready(self):
        super().wait_ready()
        self._pool = concurrent.futures.ThreadPoolExecutor(64)
        self._coming = [self._pool.submit(handshake, self.port) for _ in range(400)]

    def handshakes(self):
        with self._pool:
            return [coming.result() for coming in self._coming]


@pytest.fixture
def awaited_nginx(_starter):
    return _starter(NginxThatIsWaitedFor)


def test_400_connections_to_8_workers_cost_one_request_and_the_first_of_each_is_stapled(
    awaited_nginx, issue, responder
):
    leaf = issue(behaviour=r.delayed(0.2, r.good()))
    server = awaited_nginx(leaf, workers=8, listen="reuseport")
    handshakes = server.handshakes()
    # All that any worker has ever done, so its first is among them.
    assert {int(result.body) for result in handshakes} == set(server.workers())
    assert [result.stapled for result in handshakes] == [True] * 400, server.log()
    assert responder.count(leaf) == 1


def renew(old, new):
    old.chain_file.write_bytes(new.chain_file.read_bytes())
    old.key_file.write_bytes(new.key_file.read_bytes())


@needs_signals
def test_a_renewed_certificate_is_stapled_as_soon_as_a_reload_brings_it(
    nginx, issue, responder, tmp_path
):
    old, new = issue(), issue(behaviour=r.delayed(0.15, r.good()))
    server = nginx(old)
    assert handshake(server.port).stapled
    renew(old, new)
    os.kill(server.pid, signal.SIGHUP)

    def meets_the_new_one():
        result = handshake(server.port)
        assert result.stapled, server.log()
        return result.serial == new.serial and result

    assert_strict(wait_until(meets_the_new_one).staple, new, tmp_path)
    assert responder.count(old) == responder.count(new) == 1


@needs_signals
def test_reloads_with_the_same_certificate_cost_no_request_and_no_staple(
    nginx, issue, responder, seen
):
    leaf = issue()
    server = nginx(leaf)
    for _ in range(5):
        before = set(server.workers())
        os.kill(server.pid, signal.SIGHUP)

        def all_are_new():
            assert handshake(server.port).stapled, server.log()
            return not before & set(server.workers())

        wait_until(all_are_new)
    assert responder.count(leaf) == 1
    seen(Nginx, hosts_table.RELOAD, "stapled, no request")


@needs_signals
@pytest.mark.usefixtures("adopting")
def test_an_upgrade_in_place_keeps_the_shim_that_nginx_is_told_to_keep(nginx, issue):
    server = nginx(issue(), keeping=True)
    server.upgrade()
    for _ in range(5):
        assert handshake(server.port).stapled, server.log()


# Root's, which the workers may read, and not even enter.
@pytest.mark.parametrize("mode", [None, 0o755, 0o700])
@pytest.mark.usefixtures("adopting")
def test_workers_whose_master_was_killed_staple_over_one_refresh_after_the_other(
    nginx, issue, responder, public, mode
):
    leaf = issue(behaviour=r.soon_due())
    store = public / "store"
    if mode:
        store.mkdir()
        store.chmod(mode)
    server = nginx(leaf, environment={"OCSPRELOAD_STORE": str(store) if mode else "off"})
    wait_until(server.workers)
    os.kill(server.pid, signal.SIGKILL)
    before, kept = responder.count(leaf), set(store.glob("*.der"))
    stamps = [file.stat().st_mtime_ns for file in kept]
    staples_until(server, responder, leaf, before + 3)
    # By one of them for both, in memory.
    assert set(store.glob("*.der")) == kept
    assert [file.stat().st_mtime_ns for file in kept] == stamps
    assert not server.shim_lines("warning", "error")


def test_a_leader_that_is_stopped_costs_nobody_a_staple(nginx, issue, responder, public):
    leaf = issue(behaviour=r.soon_due(40))
    # Where there is a store, the leader is never away for long: so this takes no minute.
    server = nginx(leaf, environment={"OCSPRELOAD_STORE": str(public)})
    # The master leads: it serves nobody, and one who does stands by at the least.
    wait_until(lambda: server.threads().count("ocspreload") >= 2, what=server.log)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        staples_until(server, responder, leaf, 2)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    # It leads again.
    staples_until(server, responder, leaf, 3)
    assert not server.shim_lines("warning", "error")
