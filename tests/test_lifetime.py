# SPDX-License-Identifier: MIT
"""Certificates that are loaded, replaced and given up."""

import responder as answers
import servers
from test_hazards import run_host

RELOADS = 300 if servers.SANITIZE else 2500
LIFE = 4  # seconds: a refresh every two or so
# Milliseconds in which what is asked for again within four seconds is asked for eight times, also by
# a host that is stopped for a while.
REST = 36000


def test_thousands_of_reloads_with_new_certificates_leak_nothing(
    shim, issue, responder, tmp_path
):
    leaf = issue("localhost")
    for number in range(RELOADS):
        (tmp_path / f"{number}.pem").write_bytes(issue("localhost").chain_file.read_bytes())

    # A cache that has not a slot for each of them, where there are thousands.
    limit = [] if servers.SANITIZE else ["prlimit", "--as=200000000"]
    ran = run_host(shim, leaf, "reload", tmp_path, RELOADS, wrapper=limit, timeout=600)

    assert ran.returncode == 0, ran.stderr
    assert "cache is full" not in ran.stderr
    stapled, _, more, _, _, sockets, _ = ran.stdout.split()
    assert int(stapled) == RELOADS, ran.stderr
    assert int(sockets) == 0
    assert servers.SANITIZE or int(more) < 4096  # were all kept, it would be 20 MiB


def test_a_certificate_that_was_replaced_is_asked_for_no_more_and_the_new_one_is(
    shim, issue, responder
):
    old = issue("localhost", behaviour=answers.good(validity=LIFE))
    new = issue("localhost", behaviour=answers.soon_due())

    ran = run_host(shim, new, "swap", old.chain_file, REST)

    assert ran.stdout == "1 stapled\n", ran.stderr
    assert "not refreshed any more" in ran.stderr
    # A sign of life counts for one life; who has it loaded but is never spoken to gives one, too.
    assert responder.count(old) <= 4
    assert responder.count(new) >= 8


def test_a_certificate_that_only_a_killed_process_had_is_asked_for_no_more(shim, issue, responder):
    theirs = issue("localhost", behaviour=answers.good(validity=LIFE))
    ours = issue("localhost", behaviour=answers.soon_due())

    ran = run_host(shim, ours, "bereave", theirs.chain_file, REST)

    assert ran.stdout == "1 stapled, 1 stapled\n", ran.stderr
    assert 1 <= responder.count(theirs) <= 5
    assert responder.count(ours) >= 8
