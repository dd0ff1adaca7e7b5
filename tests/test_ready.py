# SPDX-License-Identifier: MIT
"""Ready-made responses (OCSPRELOAD_RESPONSES): files that somebody else keeps fresh."""

import os
import signal
import subprocess
import time

import ca
import daemons
import pytest
import responder as r
import test_ocsp as t
from client import assert_strict, handshake
from conftest import needs_root, plain_build_only
from servers import BUILD
from support import wait_until

OFF = {"OCSPRELOAD_FETCH": "off"}


@pytest.fixture
def ready(public):
    """A directory of ready-made responses, and other things, that workers can read, too."""
    directory = public / "ready"
    directory.mkdir(mode=0o755)
    return directory


def told(path, **more):
    """
    The environment of a host that is told of them. In a long startup window it would wait as long
    for somebody to look whether they were replaced.
    """
    return {"OCSPRELOAD_RESPONSES": str(path), "OCSPRELOAD_STARTUP_WAIT": None, **more}


# Where the responder is to be asked at once, however long that takes.
PATIENT = {"OCSPRELOAD_STARTUP_WAIT": "20s"}


def response(leaf, validity=3600, **options):
    return leaf.authority.respond(leaf.certificate, next_update=validity, **options)


def put(path, content):
    """As those do who do it right."""
    new = path.with_name("." + path.name)
    new.write_bytes(content)
    new.rename(path)


def staple_becomes(server, wanted):
    wait_until(lambda: handshake(server.port).staple == wanted, what=server.log)


# What is stapled


@pytest.mark.parametrize("form", ["file", "directory"])
def test_a_ready_response_is_stapled_from_the_first_handshake_and_nobody_is_asked(
    nginx, issue, responder, ready, form, tmp_path
):
    leaf = issue()
    file = ready / "www.pem.ocsp"
    file.write_bytes(response(leaf))
    server = nginx(leaf, environment=told(file if form == "file" else ready))
    first = handshake(server.port)
    assert_strict(first.staple, leaf, tmp_path)
    assert first.staple == file.read_bytes()
    wait_until(lambda: "ocspreload" in server.threads())
    for _ in range(20):
        assert handshake(server.port).staple == first.staple
    assert responder.count(leaf) == 0


def test_responses_are_found_by_certificate_whatever_their_files_are_called(
    python_server, issue, responder, ready
):
    leaves = [issue(f"{name}.test") for name in "abc"]
    for leaf, name in zip(leaves, ("b.test.der", "c.test.pem.ocsp", "no-ending")):
        (ready / name).write_bytes(response(leaf))
    (ready / "key.pem").write_bytes(leaves[0].key_file.read_bytes())
    (ready / "leaf.der").write_bytes(leaves[0].der)
    (ready / "empty").write_bytes(b"")
    (ready / "garbage.der").write_bytes(b"0\x82garbage" * 100)
    (ready / "late.der").write_bytes(ca.error_response("TRY_LATER"))
    (ready / "directory").mkdir()
    os.mkfifo(ready / "fifo.ocsp")
    (ready / "nowhere").symlink_to("nothing")
    files = [f"{name}.test={leaf.pem_file}" for name, leaf in zip("abc", leaves)]
    server = python_server(leaves[0].pem_file, *files, environment=told(ready))
    for name, leaf in zip("abc", leaves):
        assert handshake(server.port, f"{name}.test").staple == response_of(ready, leaf)
        assert responder.count(leaf) == 0


def response_of(directory, leaf):
    """What a directory has for a leaf, found by a judge of ours."""
    for file in sorted(directory.iterdir()):
        data = file.read_bytes() if file.is_file() else b""
        if data.startswith(b"0\x82") and leaf.serial.to_bytes(20, "big").lstrip(b"\0") in data:
            if data != leaf.der:
                return data
    raise AssertionError(f"nothing in {directory}")


def test_one_file_may_speak_of_several_certificates(python_server, authority, issue, ready):
    leaves = [issue("a.test"), issue("b.test")]
    datas = [t.data_of(response(leaf)) for leaf in leaves]
    singles = [single for data in datas for single in t.split(data[2])]
    tbs = ca.tlv(0x30, *datas[0][:2], ca.tlv(0x30, *singles))
    both = ready / "both.der"
    both.write_bytes(ca.sign_response(tbs, authority.key))
    files = [f"{name}.test={leaf.pem_file}" for name, leaf in zip("ab", leaves)]
    server = python_server(leaves[0].pem_file, *files, environment=told(both, **OFF))
    for name in "ab":
        assert handshake(server.port, f"{name}.test").staple == both.read_bytes()


def test_of_several_the_newest_that_is_good_is_stapled(s_server, issue, ready):
    leaf = issue()
    newest = response(leaf, this_update=-60)
    (ready / "1.der").write_bytes(response(leaf, this_update=-600))
    (ready / "2.der").write_bytes(newest)
    (ready / "3.der").write_bytes(response(leaf, this_update=-300))
    (ready / "4.der").write_bytes(r.bad_signature()(leaf).body)
    server = s_server(leaf, environment=told(ready, **OFF))
    assert handshake(server.port).staple == newest


def test_a_certificate_of_the_same_serial_number_by_another_ca_is_another(
    s_server, issue, ec_authority, ready
):
    leaf = issue()
    twin = ec_authority.sibling(leaf.certificate, leaf.serial)
    (ready / "a.der").write_bytes(ec_authority.respond(twin))
    server = s_server(leaf, environment=told(ready, **OFF))
    assert not handshake(server.port).stapled
    assert not server.shim_lines("warning", "error")
    (ready / "b.der").write_bytes(response(leaf))
    wait_until(lambda: handshake(server.port).stapled, what=server.log)


def test_a_certificate_without_a_responder_is_stapled(s_server, authority, ready, tmp_path):
    leaf = authority.issue()
    server = s_server(leaf, environment=told(ready))
    # Nothing to wait for, and nothing to complain about.
    first = handshake(server.port)
    assert not first.stapled and first.seconds < 2.5
    (ready / "a.der").write_bytes(response(leaf))
    assert_strict(
        wait_until(lambda: handshake(server.port).staple, what=server.log), leaf, tmp_path
    )
    assert not server.shim_lines("warning", "error")


@pytest.mark.parametrize("fetch", ["on", "off"])
def test_an_issuer_that_the_server_does_not_send_is_found_elsewhere(
    python_server, authority, ready, tmp_path, fetch
):
    leaf = authority.issue()
    (ready / "a.der").write_bytes(response(leaf))
    alone = tmp_path / "alone.pem"
    alone.write_bytes(leaf.key_file.read_bytes() + leaf.certificate_file.read_bytes())
    more = {"OCSPRELOAD_FETCH": fetch, "OCSPRELOAD_TRUSTED": str(authority.file), **PATIENT}
    server = python_server(alone, environment=told(ready, **more))
    assert_strict(handshake(server.port).staple, leaf, tmp_path)


@pytest.mark.parametrize("behaviour", ["expired", "bad_signature", "not_yet_valid", "unknown"])
@pytest.mark.parametrize("fetch", ["on", "off"])
def test_one_that_cannot_be_used_is_said_and_the_responder_asked(
    s_server, issue, responder, ready, behaviour, fetch
):
    leaf = issue()
    file = ready / "a.der"
    file.write_bytes(getattr(r, behaviour)()(leaf).body)
    server = s_server(leaf, environment=told(ready, OCSPRELOAD_FETCH=fetch, **PATIENT))
    assert handshake(server.port).stapled == (fetch == "on")
    assert responder.count(leaf) == (fetch == "on")
    (line,) = server.shim_lines("error")
    assert f"the ready-made response in {file} is not stapled: " in line
    assert ("asking its responder" if fetch == "on" else "nothing to staple") in line


def test_a_ready_revocation_counts(s_server, issue, responder, ready):
    leaf = issue()
    file = ready / "a.der"
    file.write_bytes(response(leaf, status="revoked"))
    server = s_server(leaf, environment=told(ready))
    assert not handshake(server.port).stapled
    (line,) = server.shim_lines("error")
    assert "revoked since" in line and f"says {file}" in line
    assert responder.count(leaf) == 0
    # Taken off hold.
    put(file, response(leaf))
    wait_until(lambda: handshake(server.port).stapled, what=server.log)


# What is replaced


def _renamed(file, content):
    put(file, content)


def _written_in_place(file, content):
    with file.open("r+b") as opened:
        opened.write(content)
        opened.truncate()


def _removed_first(file, content):
    file.unlink()
    file.write_bytes(content)


def _under_another_name(file, content):
    file.unlink()
    file.with_name("another.ocsp").write_bytes(content)


def _to_another_place(file, content):
    """A link that is there from the beginning, pointed elsewhere."""
    target = file.with_name("target-2")
    target.write_bytes(content)
    link = file.with_name(".link")
    link.symlink_to(target)
    link.rename(file)


@pytest.mark.parametrize(
    "replace",
    [_renamed, _written_in_place, _removed_first, _under_another_name, _to_another_place],
    ids=lambda replace: replace.__name__.strip("_"),
)
@pytest.mark.parametrize("fetch", ["on", "off"])
def test_a_replacement_is_stapled(s_server, issue, responder, ready, replace, fetch):
    leaf = issue()
    file = ready / "a.der"
    file.write_bytes(response(leaf, this_update=-120))
    server = s_server(leaf, environment=told(ready, OCSPRELOAD_FETCH=fetch))
    assert handshake(server.port).stapled
    for ago in (-60, 0):
        if not file.exists():
            file = file.with_name("another.ocsp")
        newer = response(leaf, this_update=ago)
        replace(file, newer)
        staple_becomes(server, newer)
    assert responder.count(leaf) == 0
    assert ("ocspreload" in server.threads()) == (fetch == "on")


@pytest.mark.parametrize("form", ["file", "link to a file", "directory", "link to a directory"])
def test_kubernetes_replaces_what_links_lead_to(s_server, issue, tmp_path, form):
    leaf = issue()
    volume = tmp_path / "volume"
    (volume / "..1").mkdir(parents=True)
    (volume / "..1" / "a.der").write_bytes(response(leaf, this_update=-60))
    (volume / "..data").symlink_to("..1")
    (volume / "a.der").symlink_to("..data/a.der")
    path = {
        "file": volume / "..data" / "a.der",
        "link to a file": volume / "a.der",
        "directory": volume,
        "link to a directory": volume / "..data",
    }[form]
    server = s_server(leaf, environment=told(path))
    assert handshake(server.port).stapled
    newer = response(leaf)
    (volume / "..2").mkdir()
    (volume / "..2" / "a.der").write_bytes(newer)
    (volume / "..data_tmp").symlink_to("..2")
    (volume / "..data_tmp").rename(volume / "..data")
    staple_becomes(server, newer)


def test_a_replacement_is_noticed_without_any_handshake(nginx, issue, ready):
    leaf = issue()
    file = ready / "a.der"
    file.write_bytes(response(leaf, this_update=-60))
    server = nginx(leaf, environment=told(ready))
    wait_until(lambda: "ocspreload" in server.threads())
    before = server.log().count(f"stapling the ready-made response in {file}")
    newer = response(leaf)
    put(file, newer)
    wait_until(
        lambda: server.log().count(f"stapling the ready-made response in {file}") > before,
        what=server.log,
    )
    assert handshake(server.port).staple == newer


def test_what_is_written_slowly_is_not_read_before_it_is_whole(s_server, issue, ready):
    leaf = issue()
    first, second = (response(leaf, this_update=ago) for ago in (-60, 0))
    file = ready / "a.ocsp"

    def is_written_in_time():
        """What does not grow for longer than a second counts as whole."""
        put(file, first)
        server = s_server(leaf, environment=told(ready))
        assert handshake(server.port).staple == first
        times = [time.monotonic()]
        with file.open("wb", buffering=0) as opened:
            for at in range(0, len(second), len(second) // 4 + 1):
                opened.write(second[at : at + len(second) // 4 + 1])
                for _ in range(5):
                    assert handshake(server.port).staple in (first, second)
                times.append(time.monotonic())
        if any(later - earlier >= 1 for earlier, later in zip(times, times[1:])):
            return False
        staple_becomes(server, second)
        assert not server.shim_lines("warning", "error")
        return True

    wait_until(is_written_in_time)


@pytest.mark.parametrize("how", ["vanishes", "is spoilt", "is for all to write"])
def test_what_was_read_is_stapled_when_its_file(s_server, issue, responder, ready, how):
    leaf = issue()
    file = ready / "a.der"
    held = response(leaf)
    file.write_bytes(held)
    server = s_server(leaf, environment=told(ready))
    assert handshake(server.port).staple == held
    if how == "vanishes":
        file.unlink()
        (ready / "b.ocsp").write_bytes(b"spoilt")
    elif how == "is spoilt":
        put(file, b"spoilt")
    else:
        file.chmod(0o666)
    # Once what is wrong is said, it has been seen.
    (line,) = wait_until(
        lambda: [handshake(server.port).staple == held and server.shim_lines("warning")][0],
        what=server.log,
    )
    assert "is no ready-made response that can be used" in line
    assert handshake(server.port).staple == held
    assert responder.count(leaf) == 0 and not server.shim_lines("error")


@pytest.mark.parametrize("path", ["missing", "writable by all"])
def test_a_path_that_cannot_be_used_is_said_once(s_server, issue, responder, ready, path):
    leaf = issue()
    (ready / "a.der").write_bytes(response(leaf))
    ready.chmod(0o1777)
    used = ready / "missing" if path == "missing" else ready
    server = s_server(leaf, environment=told(used, **PATIENT))
    # So its responder is asked, as ever.
    wait_until(lambda: "ocspreload" in server.threads())
    assert handshake(server.port).stapled and responder.count(leaf) == 1
    (line,) = server.shim_lines("warning")
    assert f"OCSPRELOAD_RESPONSES={used} cannot be used" in line


# What ends


@pytest.mark.parametrize("fetch", ["on", "off"])
def test_one_that_ends_is_said_in_time_and_its_responder_asked(
    nginx, issue, responder, ready, fetch, tmp_path
):
    leaf = issue()
    file = ready / "a.der"
    # Three quarters of its life are over in eight seconds.
    held = response(leaf, 20, this_update=-28)
    file.write_bytes(held)
    server = nginx(leaf, environment=told(ready, OCSPRELOAD_FETCH=fetch))
    assert handshake(server.port).staple == held

    def warned():
        assert handshake(server.port).stapled
        return server.shim_lines("warning")

    (line,) = wait_until(warned, what=server.log)
    assert f"the ready-made response in {file} ends at " in line
    if fetch == "on":
        assert "asking its responder" in line
        wait_until(lambda: handshake(server.port).staple not in (held, None), what=server.log)
        wait_until(lambda: server.shim_lines("error"), what=server.log)
        assert_strict(handshake(server.port).staple, leaf, tmp_path)
        assert responder.count(leaf) == 1
    else:
        assert "nothing will be stapled then" in line
        wait_until(lambda: not handshake(server.port).stapled, what=server.log)
        wait_until(lambda: handshake(server.port) and server.shim_lines("error"), what=server.log)
        assert responder.count(leaf) == 0
    (line,) = server.shim_lines("error")
    assert f"the ready-made response in {file} ended at " in line and "was not replaced" in line
    # And it is as before when it is replaced in the end.
    newest = response(leaf, 7200)
    put(file, newest)
    staple_becomes(server, newest)
    assert len(server.shim_lines("warning", "error")) == 2


def test_one_that_is_replaced_in_time_is_not_worth_a_word(nginx, issue, responder, ready):
    leaf = issue()
    file = ready / "a.der"
    file.write_bytes(response(leaf, 16))
    server = nginx(leaf, environment=told(ready))
    # In all for longer than three quarters of the first one's life.
    for _ in range(6):
        newer = response(leaf, 16)
        put(file, newer)
        staple_becomes(server, newer)
        began = ca.now()
        wait_until(lambda: ca.now() >= began + ca.seconds(3))
        assert handshake(server.port).stapled
    assert responder.count(leaf) == 0 and not server.shim_lines("warning", "error")


def test_after_long_silence_the_first_handshake_has_the_replacement(s_server, issue, ready):
    """Nobody has looked: the process started from a file, and never had a thread."""
    leaf = issue()
    file = ready / "a.der"

    def started_in_time():
        """When three quarters of a response's life are over, there is something to look for."""
        began = time.monotonic()
        put(file, response(leaf, 10))
        server = s_server(leaf, environment=told(ready, OCSPRELOAD_STARTUP_WAIT="1m"))
        threads = server.threads()
        return time.monotonic() < began + 6 and (server, threads)

    server, threads = wait_until(started_in_time)
    assert "ocspreload" not in threads
    end = ca.now() + ca.seconds(11)
    newer = response(leaf)
    put(file, newer)
    wait_until(lambda: ca.now() > end)
    assert handshake(server.port).staple == newer


# Ready-made and stored


def test_what_is_stored_and_newer_is_stapled(s_server, issue, responder, ready, tmp_path):
    leaf = issue()
    store = {"OCSPRELOAD_STORE": str(tmp_path / "store")}
    server = s_server(leaf, environment=store)
    stored = handshake(server.port).staple
    wait_until(lambda: list((tmp_path / "store").glob("*.der")))
    server.stop()
    (ready / "a.der").write_bytes(response(leaf, 3500, this_update=-60))
    server = s_server(leaf, environment=told(ready, **store))
    staple_becomes(server, stored)
    assert responder.count(leaf) == 1


def test_a_stored_revocation_is_newer_than_what_is_ready(
    s_server, issue, responder, ready, tmp_path
):
    leaf = issue(behaviour=r.revoked())
    store = {"OCSPRELOAD_STORE": str(tmp_path / "store")}
    server = s_server(leaf, environment=store)
    assert not handshake(server.port).stapled
    wait_until(lambda: list((tmp_path / "store").glob("*.der")))
    server.stop()
    (ready / "a.der").write_bytes(response(leaf, this_update=-600))
    for fetch in ("on", "off"):
        server = s_server(leaf, environment=told(ready, **store, OCSPRELOAD_FETCH=fetch))
        assert not any(handshake(server.port).stapled for _ in range(5))
    assert responder.count(leaf) == 1


@pytest.mark.parametrize("fetch", ["on", "off"])
def test_one_whose_issuer_is_not_known_is_said(python_server, authority, ready, tmp_path, fetch):
    leaf = authority.issue()
    file = ready / "a.der"
    file.write_bytes(response(leaf))
    alone = tmp_path / "alone.pem"
    alone.write_bytes(leaf.key_file.read_bytes() + leaf.certificate_file.read_bytes())
    more = {"OCSPRELOAD_FETCH": fetch, "OCSPRELOAD_STARTUP_WAIT": "0"}
    server = python_server(alone, environment=told(ready, **more))

    def said():
        assert not handshake(server.port).stapled
        return server.shim_lines("error")

    (line,) = wait_until(said, interval=0.2, what=server.log)
    assert f"the ready-made response in {file} is not stapled: its issuer's" in line


def test_what_is_ready_is_not_stored(s_server, issue, ready, tmp_path):
    leaf = issue()
    (ready / "a.der").write_bytes(response(leaf))
    store = tmp_path / "store"
    server = s_server(leaf, environment=told(ready, OCSPRELOAD_STORE=str(store)))
    assert handshake(server.port).stapled
    assert not list(store.glob("*.der"))


@needs_root
@plain_build_only
def test_a_chrooted_worker_keeps_what_was_read_before(public, issue, responder, shim, ready):
    """It cannot see the files any more, so it cannot see them gone."""
    leaf = issue(kind="rsa")
    file = ready / "a.der"
    file.write_bytes(response(leaf))
    directory = public / "haproxy"
    directory.mkdir()
    with daemons.Haproxy(directory, shim, leaf, environment=told(ready)) as server:
        for _ in range(3):
            assert server.handshake().staple == file.read_bytes()
        assert responder.count(leaf) == 0
        newer = response(leaf)
        put(file, newer)
        server.reload()
        wait_until(lambda: server.handshake().staple == newer, what=server.log)
        assert responder.count(leaf) == 0 and not server.shim_lines("error")


@needs_root
def test_a_worker_that_may_not_read_it_keeps_what_was_read_before(
    nginx, issue, responder, ready
):
    leaf = issue()
    file = ready / "a.der"
    file.write_bytes(response(leaf, this_update=-60))
    ready.chmod(0o700)
    server = nginx(leaf, environment=told(ready, **OFF))

    def complaint():
        assert handshake(server.port).staple == held
        return server.shim_lines("warning")

    held = file.read_bytes()
    (line, *_) = wait_until(complaint, what=server.log)
    assert f"OCSPRELOAD_RESPONSES={ready} cannot be used: Permission denied" in line
    # But its master may, and does when it loads its certificates again.
    newer = response(leaf)
    put(file, newer)
    os.kill(server.pid, signal.SIGHUP)
    staple_becomes(server, newer)
    assert responder.count(leaf) == 0


@needs_root
def test_who_owns_it_does_not_matter(s_server, issue, ready):
    leaf = issue()
    file = ready / "a.der"
    file.write_bytes(response(leaf))
    os.chown(file, 65534, 65534)
    os.chown(ready, 65534, 65534)
    server = s_server(leaf, environment=told(ready, **OFF))
    assert handshake(server.port).stapled


# The tool


def ocspctl(*arguments, **environment):
    inherited = {name: value for name, value in os.environ.items() if "OCSPRELOAD" not in name}
    environment = {name: value for name, value in environment.items() if value is not None}
    ran = subprocess.run(
        [str(BUILD / "ocspctl"), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**inherited, "OCSPRELOAD_STORE": "off", **environment},
        timeout=60,
    )
    return ran.returncode, ran.stdout + ran.stderr


def test_the_tool_tells_of_it(authority, responder, ready):
    leaf = authority.issue("www.example.org")
    file = ready / "a.der"
    environment = told(ready)
    assert ocspctl("status", leaf.chain_file, **environment) == (1, "there is no store\n")
    code, text = ocspctl("doctor", leaf.chain_file, **environment)
    assert code == 1 and "OCSPRELOAD_RESPONSES has none for it" in text
    file.write_bytes(response(leaf))
    code, text = ocspctl("status", leaf.chain_file, **environment)
    assert code == 0 and f": ready in {file}: good: usable until " in text
    code, text = ocspctl("doctor", leaf.chain_file, **environment)
    assert code == 0 and text.startswith("ok: www.example.org") and f"ready in {file}: " in text
    file.write_bytes(response(leaf, status="revoked"))
    code, text = ocspctl("status", leaf.chain_file, **environment)
    assert code == 1 and f": ready in {file}: revoked: since " in text
    code, text = ocspctl("doctor", leaf.chain_file, **environment)
    assert code == 1 and text.startswith("not stapled: ") and "is revoked" in text


def test_the_doctor_goes_on_to_the_responder_when_what_is_ready_is_of_no_use(issue, ready):
    leaf = issue()
    (ready / "a.der").write_bytes(r.expired()(leaf).body)
    code, text = ocspctl("doctor", leaf.chain_file, **told(ready))
    first, second = text.splitlines()
    assert first.startswith("not used: ") and first.endswith(": expired (is the clock right?)")
    assert code == 0 and second.startswith("ok: ")
