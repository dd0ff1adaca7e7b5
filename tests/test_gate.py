# SPDX-License-Identifier: MIT
"""
A host that forks or exits waits for one piece of the thread's work at the most. So no piece is long,
however much there is to do; counted in instructions, which are the same on a busy machine.
"""

import contextlib
import re
import subprocess

import ca
import pytest
import servers
from conftest import plain_build_only
from support import wait_until

pytestmark = plain_build_only

HOST = servers.BUILD / "hosts" / "tls_host"
# About four milliseconds. The first verification of a response, for which libcrypto looks for its
# algorithms, takes half of it.
LONGEST = 8_000_000
LONGEST_LIFE = 100_000_000  # microseconds


@contextlib.contextmanager
def counted(shim, directory, leaf, **environment):
    """A host whose thread leaves a file for each piece of its work; the log, and the files."""
    log, pieces = directory / "log", directory / "pieces"
    pieces.mkdir()
    valgrind = ["valgrind", "--tool=callgrind", "--separate-threads=yes", "-q"]
    valgrind += ["--zero-before=enter_gate", "--dump-before=leave_gate"]
    valgrind += [f"--callgrind-out-file={pieces}/out"]
    host = [HOST, leaf.chain_file, leaf.key_file, "exit", LONGEST_LIFE]
    running = subprocess.Popen(
        [*valgrind, *(str(word) for word in host)],
        env=shim.environment(OCSPRELOAD_LOG=str(log), **environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield (lambda: log.read_text() if log.exists() else ""), pieces
    finally:
        running.kill()
        running.wait()


def assert_short(pieces, most=LONGEST):
    """Returns how many there were."""
    counts = []
    for piece in pieces.iterdir():
        text = piece.read_text(errors="replace")
        # What is cut off while it is written has neither.
        if "--dump-before=leave_gate" in text and (found := re.search(r"^totals: (\d+)", text, re.M)):
            counts.append(int(found.group(1)))
    assert counts and max(counts) <= most, sorted(counts)[-5:]
    # The first verification at the least was seen.
    assert max(counts) > 100_000
    print(f"{len(counts)} pieces, the longest of {max(counts):,} instructions")
    return len(counts)


def assert_stapled_in_short_pieces(shim, directory, leaf, **environment):
    with counted(shim, directory, leaf, **environment) as (log, pieces):
        wait_until(lambda: "stapling the response of http" in log(), 300, what=log)
        # Until the piece that this line is from is over, too.
        known = len(list(pieces.iterdir()))
        wait_until(lambda: len(list(pieces.iterdir())) > known, 300, what=log)
    return assert_short(pieces)


@pytest.fixture
def crowd(authority, other):
    """PEM of thousands of certificates, the wanted one the last, and some that are called as it."""
    impostors = authority.again(new_key=True).file.read_text() * 20
    return other.file.read_text() * 3000 + impostors + authority.file.read_text()


@pytest.fixture
def other(tmp_path_factory):
    return ca.Authority.create(tmp_path_factory.mktemp("other-root"), "Other Root")


def test_a_fetch_is_done_in_short_pieces(shim, issue, tmp_path):
    assert_stapled_in_short_pieces(shim, tmp_path, issue())


def test_a_bundle_of_thousands_is_searched_in_short_pieces(shim, issue, crowd, tmp_path):
    trusted = tmp_path / "trusted"
    trusted.write_text(crowd)
    leaf = issue().with_chain()
    assert_stapled_in_short_pieces(shim, tmp_path, leaf, OCSPRELOAD_TRUSTED=str(trusted))


def test_the_systems_file_is_searched_in_short_pieces(shim, issue, crowd, tmp_path):
    file, empty = tmp_path / "certificates", tmp_path / "empty"
    file.write_text(crowd)
    empty.mkdir()
    leaf = issue().with_chain()
    variables = {"SSL_CERT_FILE": str(file), "SSL_CERT_DIR": str(empty)}
    assert_stapled_in_short_pieces(shim, tmp_path, leaf, **variables)


def test_a_directory_of_hundreds_is_searched_in_short_pieces(
    shim, issue, authority, other, tmp_path
):
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    for number in range(500):
        (trusted / f"{number}.pem").write_bytes(other.file.read_bytes())
    (trusted / "right.pem").write_bytes(authority.file.read_bytes())
    leaf = issue().with_chain()
    pieces = assert_stapled_in_short_pieces(
        shim, tmp_path, leaf, OCSPRELOAD_TRUSTED=str(trusted)
    )
    assert pieces > 500


def test_a_store_of_thousands_is_pruned_in_short_pieces(shim, issue, tmp_path):
    store = tmp_path / "store"
    store.mkdir(mode=0o755)
    for number in range(5000):
        (store / f"{number:064x}.der").write_bytes(b"")
    pieces = assert_stapled_in_short_pieces(shim, tmp_path, issue(), OCSPRELOAD_STORE=str(store))
    assert pieces > 100


def test_thousands_of_ready_made_responses_are_read_in_short_pieces(
    shim, issue, authority, tmp_path
):
    leaf = issue()
    ready, new = tmp_path / "ready", tmp_path / "new"
    ready.mkdir(mode=0o755)
    new.mkdir(mode=0o755)
    response = authority.respond(issue("other.test").certificate, signer=authority.delegate())
    for number in range(3000):
        (new / f"{number}.der").write_bytes(response if number % 10 == 0 else b"")
    (new / "right.der").write_bytes(authority.respond(leaf.certificate))
    with counted(shim, tmp_path, leaf, OCSPRELOAD_RESPONSES=str(ready)) as (log, pieces):
        wait_until(lambda: "stapling the response of http" in log(), 90, what=log)
        # For the thread alone, and all at once.
        new.rename(ready)
        # Whichever of the two was made in the later second.
        wait_until(lambda: "right.der" in log(), 90, what=log)
        known = len(list(pieces.iterdir()))
        wait_until(lambda: len(list(pieces.iterdir())) > known, 90, what=log)
    assert assert_short(pieces) > 300
