# SPDX-License-Identifier: MIT
"""Responses on disk: restarts, strangers, and processes that know nothing of each other."""

import os
import pathlib
import shutil
import signal
import subprocess
import time

import hosts_table
import pytest
import responder as r
from client import assert_strict, handshake, staples_until
from conftest import needs_root
from servers import Nginx
from support import seconds_since, wait_until
from test_hazards import run_host


def file_of(store):
    (file,) = store.glob("*.der")
    return file


@pytest.fixture
def warm(s_server, issue, responder, store, stored):
    """A leaf whose response is in the store, and its responder is down."""
    leaf = issue()
    server = s_server(leaf, environment=stored)
    assert handshake(server.port).stapled
    wait_until(lambda: list(store.glob("*.der")))
    server.stop()
    responder.stop()
    return leaf


def test_a_restarted_nginx_staples_on_its_first_handshake_while_the_responder_is_down(
    nginx, issue, responder, store, stored, tmp_path, seen
):
    leaf = issue()
    server = nginx(leaf, environment=stored)
    assert handshake(server.port).stapled
    wait_until(lambda: list(store.glob("*.der")))
    server.stop()
    responder.stop()
    server = nginx(leaf, environment=stored)
    first = handshake(server.port)
    assert_strict(first.staple, leaf, tmp_path)
    assert first.seconds < 1.5
    assert responder.count(leaf) == 1
    seen(Nginx, hosts_table.RESTART)


def test_a_start_from_the_store_needs_neither_thread_nor_network(s_server, warm, stored):
    server = s_server(warm, environment=stored)
    assert handshake(server.port).stapled
    assert "ocspreload" not in server.threads()
    assert "asking" not in server.log()


def test_a_thread_comes_when_something_is_due(s_server, issue, responder, store, stored):
    leaf = issue(behaviour=r.good(validity=20, this_update=-10))
    server = s_server(leaf, environment=stored)
    assert handshake(server.port).stapled
    wait_until(lambda: list(store.glob("*.der")))
    server.stop()
    server = s_server(leaf, environment=stored)
    assert handshake(server.port).stapled
    wait_until(lambda: handshake(server.port).stapled and responder.count(leaf) >= 2)


def test_processes_that_start_together_fetch_once(s_server, issue, responder, stored):
    leaf = issue(behaviour=r.delayed(0.3, r.good()))
    servers = [s_server(leaf, environment=stored) for _ in range(4)]
    assert all(handshake(server.port).stapled for server in servers)
    assert responder.count(leaf) == 1


def test_processes_that_know_nothing_of_each_other_share_every_refresh(
    s_server, issue, responder, stored
):
    leaf = issue(behaviour=r.good(validity=12, this_update=-6))
    servers = [s_server(leaf, environment=stored) for _ in range(3)]
    began = time.monotonic()
    while responder.count(leaf) < 5:
        assert all(handshake(server.port).stapled for server in servers)
        assert seconds_since(began) < 60
    # Never sooner than at half of a response's life, whoever it is that asks.
    first, *_, fifth = [asked.at for asked in responder.asked_for(leaf)[:5]]
    assert fifth - first > 4 * 2


def test_that_there_is_nothing_newer_is_known_to_all_who_share_the_store(
    s_server, issue, responder, stored
):
    life = 24
    leaf = issue()
    same = r.headers(r.soon_due(life), ("ETag", '"first"'))(leaf)

    def answer(leaf):
        is_known = "If-None-Match" in responder.asked_for(leaf)[-1].headers
        return r.http_status(304, r.empty())(leaf) if is_known else same

    responder.answer(leaf, answer)
    servers = [s_server(leaf, environment=stored)]
    wait_until(lambda: "has nothing newer yet" in servers[0].log())
    servers.append(s_server(leaf, environment=stored))
    # Who has all that it needs from the store begins to ask at a handshake.
    wait_until(
        lambda: all(handshake(server.port).stapled for server in servers)
        and responder.count(leaf) >= 3
    )
    first, second, third = [asked.at for asked in responder.asked_for(leaf)[:3]]
    # The next is asked for at the half of what was left then, by whichever of them.
    assert third - second >= 0.4 * (first + life - 1 - second)


def test_a_process_that_dies_while_it_asks_does_not_keep_others_from_asking(
    s_server, issue, responder, stored
):
    leaf = issue(behaviour=r.hanging())
    server = s_server(leaf, environment=stored)
    wait_until(lambda: responder.count(leaf) == 1)
    os.kill(server.pid, signal.SIGKILL)
    responder.answer(leaf, r.good())
    server = s_server(leaf, environment=stored)
    assert handshake(server.port).stapled


def test_a_process_that_is_stopped_while_it_asks_does_not_keep_others_from_asking(
    s_server, issue, responder, stored
):
    stored["OCSPRELOAD_TIMEOUT"] = "1s"
    leaf = issue(behaviour=r.hanging())
    stopped = s_server(leaf, environment=stored)
    wait_until(lambda: responder.count(leaf) == 1)
    os.kill(stopped.pid, signal.SIGSTOP)
    try:
        before = responder.count(leaf)
        responder.answer(leaf, r.soon_due(24))
        server = s_server(leaf, environment=stored)
        wait_until(lambda: handshake(server.port).staple, what=server.log)
        # Again when it is time to, without a moment that lacks a staple.
        staples_until(server, responder, leaf, before + 2)
    finally:
        os.kill(stopped.pid, signal.SIGCONT)


def test_what_is_stored_is_the_response_as_openssl_reads_it(warm, store):
    command = ["openssl", "ocsp", "-respin", file_of(store), "-issuer", warm.authority.file]
    command += ["-cert", warm.certificate_file, "-CAfile", warm.authority.root.file, "-no_nonce"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"{warm.certificate_file}: good" in ran.stdout, ran.stderr
    assert file_of(store).stat().st_mode & 0o777 == 0o644
    assert {path.suffix for path in store.iterdir() if path.name != "lock"} == {".der"}


def _garbage(file, other):
    file.write_bytes(b"garbage" * 100)


def _nothing(file, other):
    file.write_bytes(b"")


def _torn(file, other):
    file.write_bytes(file.read_bytes()[:-20])


def _somebody_elses(file, other):
    file.write_bytes(other.authority.respond(other.certificate))


def _expired(file, other):
    file.write_bytes(r.expired()(other).body)


def _fifo(file, other):
    file.unlink()
    os.mkfifo(file)


def _directory(file, other):
    file.unlink()
    file.mkdir()


def _link(file, other):
    target = file.with_name("target")
    shutil.move(file, target)
    file.symlink_to(target)


def _endless(file, other):
    with file.open("ab") as opened:
        opened.truncate(1 << 30)


@pytest.mark.parametrize(
    "spoil",
    [_garbage, _nothing, _torn, _somebody_elses, _expired, _fifo, _directory, _link, _endless],
    ids=lambda spoil: spoil.__name__.strip("_"),
)
def test_what_cannot_be_used_is_fetched_anew(
    s_server, issue, responder, warm, store, stored, spoil, tmp_path
):
    spoil(file_of(store), issue("other.test"))
    server = s_server(warm, environment=stored)
    assert not handshake(server.port).stapled
    responder.start()
    assert_strict(
        wait_until(lambda: handshake(server.port).staple), warm, tmp_path
    )


@needs_root
def test_what_belongs_to_somebody_else_is_not_read(s_server, warm, store, stored):
    os.chown(file_of(store), 65534, 65534)
    server = s_server(warm, environment=stored)
    assert not handshake(server.port).stapled


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_directory_that_others_may_write_is_refused(s_server, warm, store, stored, mode):
    store.chmod(mode)
    server = s_server(warm, environment=stored)
    assert not handshake(server.port).stapled
    assert f"OCSPRELOAD_STORE={store} is not used" in server.log()


@needs_root
def test_a_user_has_a_store_in_the_home_directory(python_server, issue, responder, public):
    leaf = issue()
    pem = public / "pem"
    pem.write_bytes(leaf.pem_file.read_bytes())
    home = public / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    more = {
        "environment": {"OCSPRELOAD_STORE": None, "HOME": str(home)},
        "wrapper": ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
    }
    server = python_server(pem, **more)
    assert handshake(server.port).stapled
    wait_until(lambda: list((home / ".cache" / "ocspreload").glob("*.der")))
    server.stop()
    responder.stop()
    assert handshake(python_server(pem, **more).port).stapled


def test_a_revocation_is_remembered_and_not_asked_for_again(
    s_server, issue, responder, store, stored
):
    leaf = issue(behaviour=r.revoked())
    server = s_server(leaf, environment=stored)
    assert not handshake(server.port).stapled
    wait_until(lambda: list(store.glob("*.der")))
    server.stop()
    server = s_server(leaf, environment=stored)
    assert not handshake(server.port).stapled
    assert "revoked since" in server.log()
    assert responder.count(leaf) == 1


def test_an_older_response_put_there_does_not_replace_a_newer_one(
    s_server, issue, responder, store, stored, tmp_path
):
    leaf = issue(behaviour=r.soon_due(30))
    server = s_server(leaf, environment=stored)
    assert handshake(server.port).stapled
    old = leaf.authority.respond(leaf.certificate, this_update=-3600)
    responder.stop()
    # The last that it had is stored.
    newest = wait_until(
        lambda: {handshake(server.port).staple}
        & {file.read_bytes() for file in store.glob("*.der")}
    ).pop()
    file_of(store).write_bytes(old)
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        assert handshake(server.port).staple == newest


def test_a_host_that_must_not_fetch_serves_what_others_store(
    s_server, issue, responder, store, stored, tmp_path
):
    leaf = issue(behaviour=r.soon_due(20))
    silent = s_server(leaf, environment={**stored, "OCSPRELOAD_FETCH": "off"})
    assert not handshake(silent.port).stapled
    assert responder.count(leaf) == 0
    s_server(leaf, environment=stored)
    first = wait_until(lambda: handshake(silent.port).staple)
    assert_strict(first, leaf, tmp_path)
    # And rereads it when it is replaced.
    wait_until(lambda: handshake(silent.port).staple not in (first, None))
    assert "ocspreload" not in silent.threads()


def make_fifo(path):
    os.mkfifo(path)


def make_directory(path):
    (path / "full").mkdir(parents=True)


def make_link(path):
    path.symlink_to("/etc/passwd")


def make_garbage(path):
    path.write_bytes(b"\x30" * 5000)


@pytest.mark.parametrize("make", [make_fifo, make_directory, make_link, make_garbage])
def test_what_is_put_in_the_place_of_its_files_meanwhile_costs_no_staple(
    s_server, issue, responder, store, stored, make
):
    leaf = issue(behaviour=r.soon_due())
    server = s_server(leaf, environment=stored)
    wait_until(lambda: handshake(server.port).stapled and list(store.glob("*.der")))
    before = pathlib.Path("/etc/passwd").read_bytes()
    for path in [*store.glob("*.der"), store / "lock"]:
        path.unlink()
        make(path)
    staples_until(server, responder, leaf, 4)
    assert pathlib.Path("/etc/passwd").read_bytes() == before
    # Nor does it keep another from the first.
    assert handshake(s_server(leaf, environment=stored).port).stapled


def test_a_store_that_is_removed_meanwhile_costs_no_staple(
    s_server, issue, responder, store, stored
):
    leaf = issue(behaviour=r.soon_due())
    server = s_server(leaf, environment=stored)
    wait_until(lambda: handshake(server.port).stapled and list(store.glob("*.der")))
    shutil.rmtree(store)
    staples_until(server, responder, leaf, 3)
    # It is used again as soon as it is back.
    store.mkdir(mode=0o755)
    wait_until(lambda: handshake(server.port).stapled and list(store.glob("*.der")))


def test_what_is_long_dead_is_removed(s_server, issue, store, stored):
    old, recent, torn, foreign = (store / name for name in ("a.der", "b.der", "c.der.tmp-aaaaaa", "d.txt"))
    for file in (old, recent, torn, foreign):
        file.write_text("")
        os.utime(file, (0, 0))
    os.utime(recent)
    server = s_server(issue(), environment=stored)
    assert handshake(server.port).stapled
    wait_until(lambda: not old.exists() and not torn.exists())
    assert recent.exists() and foreign.exists()


def left_behind(ran):
    """Of a host that counts what its OpenSSL allocates: the most, and what its end does not free."""
    assert ran.returncode == 0, ran.stderr
    words = ran.stdout.split()
    return int(words[0]), int(words[2])


def test_what_judging_the_store_leaves_in_openssl_is_gone_at_its_end(shim, warm, stored):
    plain, left_without = left_behind(run_host(None, warm, "balance"))
    ran = run_host(shim, warm, "balance", OCSPRELOAD_FETCH="off", **stored)
    most, left = left_behind(ran)

    # The issuer is kept for the next certificate: else this would show nothing.
    assert "stapling the response of the store" in ran.stderr
    assert most > plain + 20
    assert left <= left_without
