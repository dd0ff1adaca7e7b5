# SPDX-License-Identifier: MIT
"""Forks and exits at every moment of fetches that never cease."""

import contextlib
import statistics
import subprocess

import pytest
import responder as r
import servers
from conftest import needs_root, plain_build_only
from support import ENDURANCE, scaled

STORM = servers.BUILD / "hosts" / "storm"
SLOW = 4 if servers.SANITIZE else 1
FORKS = scaled(1200 // SLOW, 10000 // SLOW)
EXITS = scaled(200 // SLOW, 1000)
CERTIFICATES = 5 if servers.SANITIZE else 40
# Of a response: asked for again after a second or a few, and good for many more. A thread that is
# watched is slow, and forks are slower.
LIFE = 60 if servers.SANITIZE else 20


def write_in_pieces(connection, answer):
    """Each piece is a piece of work for the thread that reads it."""
    data = answer.head(("Content-Length", len(answer.body))) + answer.body
    for start in range(0, len(data), 50):
        connection.send(data[start : start + 50])
        if not connection.wait(0.002):
            return


def slowly(behaviour):
    return r._changed(behaviour, write=write_in_pieces)


def run_storm(shim, command, count, leaves, timeout=1800, **variables):
    storm = [STORM, command, count, leaves[0].key_file, *(leaf.chain_file for leaf in leaves)]
    storm = [str(word) for word in storm]
    ran = subprocess.run(
        shim.command(storm) if shim else storm,
        env=shim.environment(**variables) if shim else servers.PLAIN_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-500:] + ran.stderr[-4000:]
    return ran.stdout


def test_children_of_a_fork_during_fetches_shake_hands_and_staple(
    shim, issue, responder, figure
):
    leaves = [issue(behaviour=slowly(r.soon_due(LIFE))) for _ in range(CERTIFICATES)]
    output = run_storm(shim, "forks", FORKS, leaves, OCSPRELOAD_STARTUP_WAIT="60s")
    figure("forks", f"{output.strip()}; {len(responder.asked)} requests")
    assert output == f"{FORKS} children, {FORKS} stapled, 0 unstapled, 0 hung or died\n"
    # More than those that the first fork waited for; responses live longer under sanitizers.
    assert len(responder.asked) >= CERTIFICATES + (0 if servers.SANITIZE else 1)


PERCENTILES = (50, 90, 99)


def percentiles(times):
    """In milliseconds."""
    cuts = statistics.quantiles(times, n=100)
    return {number: cuts[number - 1] / 1000 for number in PERCENTILES}


def words(times):
    within = [f"{number} % within {time:.1f} ms" for number, time in percentiles(times).items()]
    return ", ".join([*within, f"longest {max(times) / 1000:.1f}"])


@contextlib.contextmanager
def busy_loops(count):
    running = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in running:
            loop.kill()
            loop.wait()


def storm_of_exits(shim, leaves):
    *times, last = run_storm(shim, "exits", EXITS, leaves).splitlines()
    assert last == f"{EXITS} exits, 0 of them wrong"
    return [int(time) for time in times]


@pytest.mark.parametrize("loops", scaled([0], [0, 4]))
def test_an_exit_during_a_fetch_is_an_exit(shim, issue, responder, figure, loops):
    leaves = [issue(behaviour=slowly(r.good())) for _ in range(CERTIFICATES)]
    with busy_loops(loops):
        without = storm_of_exits(None, leaves)
        times = storm_of_exits(shim, leaves)
    figure(f"without it, {loops} busy loops", words(without))
    figure(f"with the shim, {loops} busy loops", words(times))
    # None hung. How long a piece of work may be is test_gate.py's, where nothing depends on what
    # else the machine does.
    assert max(times) < 5e6
    if ENDURANCE:
        for number, time in percentiles(times).items():
            assert time < percentiles(without)[number] + 50
    # Not before the fetches, nor after them.
    assert len(responder.asked) > EXITS


@plain_build_only
def test_the_systems_certificates_are_not_read_while_the_chain_is_on_its_way(
    shim, issue, authority, tmp_path
):
    """What is found there is kept in the store, so that it can be seen."""
    leaf = issue()
    read = 0
    for number in range(20):
        store = tmp_path / str(number)
        store.mkdir(mode=0o755)
        variables = {"SSL_CERT_FILE": str(authority.file), "OCSPRELOAD_STORE": str(store)}
        output = run_storm(shim, "forks", 1, [leaf], **variables)
        assert output == "1 children, 1 stapled, 0 unstapled, 0 hung or died\n"
        assert list(store.glob("*.der"))
        read += bool(list(store.glob("*.crt")))
    # A host may be stopped for long between its certificate and its chain, but not often.
    assert read <= 5


@needs_root
def test_root_that_becomes_another_user_for_a_while_becomes_root_again(shim, issue):
    """As proftpd does. glibc ends a process in which a thread cannot follow."""
    leaves = [issue(behaviour=slowly(r.soon_due(LIFE))) for _ in range(CERTIFICATES)]
    count = scaled(20000, 1000000) // SLOW
    assert run_storm(shim, "users", count, leaves) == f"{count} times\n"


def test_a_host_that_takes_the_numbers_of_our_descriptors_is_never_written_to(
    shim, issue, responder
):
    # Two seconds of rests and more: some are asked for again.
    leaves = [issue(behaviour=slowly(r.good(validity=2))) for _ in range(CERTIFICATES)]
    count = scaled(700 if servers.SANITIZE else 1000, 20000)
    assert run_storm(shim, "descriptors", count, leaves) == f"{count} times\n"
    assert len(responder.asked) > CERTIFICATES


def test_a_fork_from_inside_a_fork_handler_is_a_fork(shim, issue):
    # Few: while that handler waits for its child, the host is in the middle of a fork.
    leaves = [issue(behaviour=slowly(r.soon_due(60))) for _ in range(2)]
    count = scaled(200, 2000) // SLOW
    output = run_storm(shim, "handlers", count, leaves)
    assert output == f"{count} and {2 * count} children, 0 wrong\n"
