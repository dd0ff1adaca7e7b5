# SPDX-License-Identifier: MIT
"""Hosts that are short of something."""

import types

import pytest
from client import handshake
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
