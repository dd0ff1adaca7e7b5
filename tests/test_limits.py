# SPDX-License-Identifier: MIT
"""Hosts that are short of something."""

import types

import pytest
import responder as r
from client import handshake, staples_until
from conftest import needs_root, plain_build_only
from test_hazards import run_host


@plain_build_only
@pytest.mark.parametrize(
    "wrapper",
    [
        ["prlimit", "--nofile=8"],
        ["prlimit", "--as=60000000"],
        ["prlimit", "--as=24000000"],
        ["sh", "-c", 'exec "$@" 2>&-', "sh"],
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"],
    ],
    ids=["descriptors", "address space", "less address space", "no standard error", "no standard descriptors"],
)
def test_a_host_with_little_is_stapled_all_the_same(s_server, issue, responder, wrapper):
    leaf = issue()
    server = s_server(leaf, wrapper=wrapper)
    assert handshake(server.port).stapled
    assert responder.count(leaf) == 1


@needs_root
@plain_build_only
def test_a_host_that_may_have_no_thread_says_so_once_and_goes_on(s_server, issue, public):
    leaf = issue()
    files = ("certificate_file", "key_file", "chain_file")
    readable = types.SimpleNamespace(**{file: public / file for file in files})
    for file in files:
        (public / file).write_bytes(getattr(leaf, file).read_bytes())
    # A user of its own, whose processes nobody else counts.
    user = ["setpriv", "--reuid=64999", "--regid=64999", "--clear-groups"]
    server = s_server(readable, wrapper=["prlimit", "--nproc=1", *user])
    for _ in range(3):
        assert not handshake(server.port).stapled
    (line,) = server.shim_lines("warning")
    assert "no thread can be started in this process" in line


# Some of it in threads of the host's own. Who is over the limit is killed, if he does not mind.
WRITES = {
    "a complaint": {"OCSPRELOAD_TIMEOUT": "soon"},
    "an issuer's certificate": {"OCSPRELOAD_FETCH": "off"},
    "a response": {},
}


@plain_build_only
@pytest.mark.parametrize("most", [0, 1, 100])
@pytest.mark.parametrize("what", WRITES)
def test_a_host_that_may_write_no_files_is_not_killed_for_those_of_the_shim(
    shim, issue, authority, tmp_path, store, stored, what, most
):
    leaf = issue()
    log = tmp_path / "log"
    stored["OCSPRELOAD_LOG"] = str(log)
    if what.startswith("an issuer"):
        # A response is stored; its issuer, which is not sent, is to be.
        run_host(shim, leaf, "handshake", 1, **stored)
        log.unlink()
        leaf = types.SimpleNamespace(chain_file=leaf.certificate_file, key_file=leaf.key_file)
        stored["OCSPRELOAD_TRUSTED"] = str(authority.file)
    before = set(store.iterdir())
    limit = ["prlimit", f"--fsize={most}"]

    ran = run_host(shim, leaf, "handshake", 2, wrapper=limit, **stored, **WRITES[what])

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "2 stapled\n"
    assert log.stat().st_size <= most
    # Nor is what was begun and could not be finished left lying about.
    assert {file.name for file in set(store.iterdir()) - before} <= {"lock"}


LIMITS = ["memlock=0", "stack=131072", "stack=unlimited", "core=0", "data=30000000", "sigpending=0"]


@plain_build_only
@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_that_is_none_for_the_shim_costs_nothing(shim, issue, responder, limit):
    leaf = issue("localhost", behaviour=r.soon_due())
    wrapper = ["prlimit", f"--{limit}"]
    ran = run_host(shim, leaf, "life", "spawn", 5000, wrapper=wrapper, OCSPRELOAD_LOG_LEVEL="info")
    assert ran.stdout == "1 stapled\n", ran.stderr
    assert responder.count(leaf) >= 2
    assert "warning" not in ran.stderr and "error" not in ran.stderr


# What a sandbox refuses; is it stapled all the same, and what is said, and how often?
REFUSED = {
    "sleep": (1, None),
    "random": (1, None),
    "file locks": (1, None),
    "privileges": (1, None),
    "limits": (1, None),
    "signals": (1, None),
    "files": (1, None),
    "threads": (0, "no thread can be started in this process (Operation not permitted)"),
    "poll": (0, "its sandbox refuses poll and ppoll (Operation not permitted); allow one"),
    "sockets": (0, "Operation not permitted; nothing to staple; trying again"),
    "connections": (0, "Operation not permitted; nothing to staple; trying again"),
    "stat": (0, "Operation not permitted; nothing to staple; trying again"),
}
REST = 5000


@plain_build_only
@pytest.mark.parametrize("what", REFUSED)
def test_what_a_sandbox_refuses_neither_harms_the_host_nor_keeps_a_processor_busy(
    shim, issue, stored, tmp_path, what
):
    leaf = issue(behaviour=r.soon_due())
    log = tmp_path / "log"
    expected, words = REFUSED[what]
    stored.update(OCSPRELOAD_LOG=str(log), OCSPRELOAD_LOG_LEVEL="warning")
    if not expected:
        # What is waited for in vain is not to end meanwhile: that would be said, too.
        stored.update(OCSPRELOAD_STARTUP_WAIT="3s", OCSPRELOAD_TIMEOUT="60s")

    ran = run_host(shim, leaf, "refused", what, REST, **stored)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    stapled, busy = (int(word) for word in ran.stdout.split() if word.isdigit())
    said = log.read_text() if log.exists() else ""
    assert stapled == expected, said
    assert busy < REST / 2
    if words:
        assert words in said
    # Else each attempt, of which there are fewer and fewer.
    if words and "trying again" not in words:
        assert said.count("\n") == 1, said


@needs_root
def test_a_full_disk_is_said_once_and_costs_no_staple(s_server, issue, responder, store, stored):
    leaf = issue(behaviour=r.soon_due())
    fill = f"mount -t tmpfs -o size=8192,mode=755 none {store}; head -c 99999 /dev/zero >{store}/x"
    server = s_server(
        leaf,
        environment=stored,
        wrapper=["unshare", "--mount", "sh", "-c", f'{fill}; exec "$@"', "sh"],
    )
    staples_until(server, responder, leaf, 4)
    (line,) = server.shim_lines("warning")
    assert f"responses are not kept in {store} any more: No space left on device" in line
    assert "OCSPRELOAD_STORE" in line


@needs_root
def test_a_root_that_is_read_only_is_said_once_and_costs_no_staple(
    s_server, issue, responder, tmp_path
):
    leaf = issue(behaviour=r.soon_due())
    root = tmp_path / "root"
    root.mkdir()
    # What is mounted there anew nobody has files open in.
    bind = f'mount --rbind / {root} && mount -o remount,bind,ro {root} && exec chroot {root} "$@"'
    server = s_server(
        leaf,
        environment={"OCSPRELOAD_STORE": None, "OCSPRELOAD_LOG_LEVEL": "info", "HOME": "/nowhere"},
        wrapper=["unshare", "--mount", "sh", "-c", bind, "sh"],
    )
    staples_until(server, responder, leaf, 4)
    lines = [line for line in server.shim_lines() if "OCSPRELOAD_STORE" in line]
    assert len(lines) == 1 and "no directory" in lines[0], server.log()
    assert not server.shim_lines("warning", "error")
