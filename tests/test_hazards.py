# SPDX-License-Identifier: MIT
"""A process of the nastiest kind: it forks, exits and runs threads at the worst moments."""

import random
import shutil
import subprocess
import types

import pytest
import responder as answers
import servers
from conftest import needs_root, plain_build_only
from support import wait_until

HOST = servers.BUILD / "hosts" / "tls_host"
STORM = 200 if servers.SANITIZE else 1000
EXITS = 60 if servers.SANITIZE else 300


def run_host(shim, leaf, *arguments, timeout=600, wrapper=(), host=HOST, **variables):
    environment = shim.environment(**variables) if shim else servers.PLAIN_ENVIRONMENT
    command = [*wrapper, host, leaf.chain_file, leaf.key_file, *map(str, arguments)]
    if shim:
        command = shim.command(command)
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


def inherits_no_socket(ran):
    """Of a host that has made a child: true if it had one then, on a machine that was fast enough."""
    assert ran.stdout.endswith(" sockets before, 0 in the child\n"), ran.stderr
    return ran.stdout.startswith("1 ")


SHORT = 10  # the life of a response that is to be over while a host rests, in seconds
REST = 12000  # which it does for so long, in milliseconds


def test_every_child_of_a_fork_storm_shakes_hands_and_staples(shim, issue):
    leaf = issue("localhost", behaviour=answers.soon_due())

    ran = run_host(shim, leaf, "fork", STORM)

    assert ran.returncode == 0, ran.stderr
    assert f"{STORM} children, {STORM} stapled, 0 hung or died" in ran.stdout, ran.stderr


CHAIN_ALONE = """
import os, sys, time
from OpenSSL import SSL, crypto
context = SSL.Context(SSL.TLS_SERVER_METHOD)
with open(sys.argv[1], "rb") as file:
    context.add_extra_chain_cert(crypto.load_certificate(crypto.FILETYPE_PEM, file.read()))
child = os.fork()
if child == 0:
    time.sleep(0.2)  # for a thread to do what it wants
    os._exit(0)
sys.exit(os.waitpid(child, 0)[1] != 0)
"""


def test_a_child_made_between_the_chain_and_the_certificate_lives(shim, authority):
    """Ruby's openssl loads the chain first."""
    command = ["/usr/bin/python3", "-c", CHAIN_ALONE, str(authority.file)]
    ran = subprocess.run(shim.command(command), env=shim.environment(), timeout=60, check=False)
    assert ran.returncode == 0


one_thread_possible = pytest.mark.skipif(
    "thread" in servers.SANITIZE, reason="ThreadSanitizer has a thread of its own"
)
# ASan has a word to say of a stack that clone was given.
every_way_past_fork = pytest.mark.parametrize(
    "how", ["syscall", "clone3", pytest.param("clone", marks=plain_build_only), "_Fork"]
)


@every_way_past_fork
def test_every_child_that_is_made_past_fork_shakes_hands_and_staples(shim, issue, how):
    leaf = issue("localhost", behaviour=answers.soon_due())

    ran = run_host(shim, leaf, "children", how, STORM)

    assert ran.returncode == 0, ran.stderr
    assert f"{STORM} children, {STORM} stapled, 0 hung or died" in ran.stdout, ran.stderr


@every_way_past_fork
def test_no_child_that_is_made_past_fork_in_the_middle_of_a_verification_hangs(shim, issue, how):
    # Each answer is looked at to its end, and the next is due at once or soon.
    leaf = issue("localhost", behaviour=answers.bad_signature())

    for _ in range(10):
        ran = run_host(shim, leaf, "children", how, STORM // 20, OCSPRELOAD_STARTUP_WAIT="0")
        assert ran.returncode == 0, ran.stderr
        assert ", 0 stapled, 0 hung or died" in ran.stdout, ran.stderr


def test_children_of_a_host_whose_responder_always_fails_never_hang(shim, issue, responder):
    leaf = issue("localhost", behaviour=answers.garbage())

    ran = run_host(shim, leaf, "fork", STORM)

    assert ran.returncode == 0, ran.stderr
    assert f"{STORM} children, 0 stapled, 0 hung or died" in ran.stdout, ran.stderr


def test_an_exit_at_any_moment_of_a_fetch_is_an_exit(shim, issue):
    leaf = issue("localhost")
    random.seed(1)

    for _ in range(EXITS):
        ran = run_host(shim, leaf, "exit", random.randrange(20000))
        assert ran.returncode == 0, ran.stderr


def test_a_host_that_ends_openssl_itself_at_any_moment_of_a_fetch_lives_on(shim, issue):
    leaf = issue("localhost")
    random.seed(2)

    for _ in range(EXITS):
        ran = run_host(shim, leaf, "cleanup", random.randrange(20000))
        assert ran.returncode == 0, ran.stderr


def test_another_process_leads_when_the_leader_has_ended_openssl(shim, issue, responder):
    leaf = issue("localhost", behaviour=answers.soon_due(SHORT))

    # What was there at the fork is over by then.
    ran = run_host(shim, leaf, "bequeath", REST)

    assert ran.stdout == "1 stapled\n", ran.stderr
    assert responder.count(leaf) >= 3


def test_a_child_inherits_no_descriptor_of_a_fetch_under_way(shim, issue):
    leaf = issue("localhost", behaviour=answers.hanging())

    def forked_meanwhile():
        return inherits_no_socket(
            run_host(shim, leaf, "sockets", 700, OCSPRELOAD_STARTUP_WAIT="0")
        )

    wait_until(forked_meanwhile)


@needs_root
@plain_build_only
def test_the_thread_holds_and_can_gain_nothing_that_the_host_has_given_up(shim, issue):
    leaf = issue("localhost", behaviour=answers.soon_due())

    ran = run_host(shim, leaf, "capset", 3500)

    # Of two threads, the permitted and the effective ones, and no-new-privs.
    assert ran.stdout.split()[1::2] == ["0000000000000000", "0000000000000000", "1"] * 2, ran.stderr


@needs_root
@plain_build_only
@pytest.mark.parametrize("what, capabilities", [("dropping", 0), ("keeping", 1 << 10)])
def test_the_thread_is_no_longer_root_when_the_host_is_not(
    shim, issue, what, capabilities
):
    leaf = issue("localhost", behaviour=answers.soon_due())

    ran = run_host(shim, leaf, "setuid", what, 3500)

    # Of two threads; and libc's setuid, which ends a process of whose threads one cannot follow.
    *said, last = ran.stdout.splitlines()
    assert said[:5] == said[5:], ran.stdout + ran.stderr
    nobody = ["65534"] * 4
    assert [line.split()[1:] for line in said[:5]] == [
        *[nobody, nobody, ["4242", "65534"]],
        *[[f"{capabilities:016x}"]] * 2,
    ]
    assert last == "dumpable 1, 1 stapled", ran.stderr


# Who the host is at first (setpriv's words), what it does, and whether its thread is then to be whom
# it is itself.
NOT_ROOT = ["--reuid=4242", "--regid=4242", "--clear-groups"]
SETS = ["--inh-caps=+{0}", "--ambient-caps=+{0}"]
PRIVILEGES = {
    "root drops some": ([], "some", True),
    "root passes none on": (["--inh-caps=+chown"], "inherit", True),
    "root has none in effect": ([], "effect", True),
    "root becomes a user whom securebits leave some": ([], "securebits", True),
    "a user with some of them drops others": ([*NOT_ROOT, *SETS, "chown,kill"], "some", True),
    "a user clears the ambient ones": ([*NOT_ROOT, *SETS, "chown,kill"], "ambient", True),
    # It may be anybody, and so may its thread.
    "a user becomes another": ([*NOT_ROOT, *SETS, "setuid"], "user", False),
    "a user becomes another for good": ([*NOT_ROOT, *SETS, "setuid"], "user for good", True),
    "a user joins another group for good": ([*NOT_ROOT, *SETS, "setgid"], "group for good", True),
}


@needs_root
@plain_build_only
@pytest.mark.parametrize("case", PRIVILEGES)
def test_the_thread_never_has_more_than_the_host(shim, issue, public, case):
    words, change, is_same = PRIVILEGES[case]
    if SETS[0] in words:
        *words, names = words
        names = names.replace(",", ",+")
        words = [word.format(names) for word in words]
    leaf = issue("localhost", behaviour=answers.soon_due())
    files = {}
    for file in ("chain_file", "key_file"):
        files[file] = public / file
        files[file].write_bytes(getattr(leaf, file).read_bytes())
    host = public / "host"
    shutil.copy(HOST, host)

    ran = run_host(
        shim,
        types.SimpleNamespace(**files),
        *("privileges", change, 3500),
        host=host,
        wrapper=["setpriv", *words],
    )

    *said, last = ran.stdout.splitlines()
    assert last == "1 stapled" and len(said) == 12, ran.stdout + ran.stderr
    main, thread = (dict(line.split(":") for line in lines) for lines in (said[:6], said[6:]))
    for name in ("CapInh", "CapPrm", "CapAmb"):
        mains, threads = (int(of[name], 16) for of in (main, thread))
        assert threads & ~mains == 0, (name, ran.stdout)
        # Nor less of what it works with.
        assert name != "CapPrm" or threads == mains, ran.stdout
    for name in ("Uid", "Gid", "Groups"):
        assert not is_same or main[name] == thread[name], (name, ran.stdout)


def alone(shim, leaf, what, who="single", times=1, rest=0, **variables):
    """
    What a host says that does what is for processes with one thread: was it stapled for before,
    how often right after, and was it later? Where it may not without the shim, nothing is said of it.
    """
    arguments = "alone", what, who, times, rest
    plain = run_host(None, leaf, *arguments[:-1], 0)
    if plain.stdout.startswith("refused"):
        pytest.skip(f"{what} without the shim: {plain.stdout}")
    ran = run_host(shim, leaf, *arguments, **variables)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@one_thread_possible
@pytest.mark.parametrize(
    "what, who",
    [
        ("unshare", "single"),
        ("unshare", "leader"),
        ("unshare", "standby"),
        ("syscall", "single"),
        ("setns", "single"),
    ],
)
def test_a_host_may_do_what_needs_a_process_with_one_thread_and_staples_on(
    shim, issue, responder, what, who
):
    leaf = issue("localhost", behaviour=answers.soon_due(SHORT))

    # After that rest, what was held before is over.
    assert alone(shim, leaf, what, who, rest=REST) == "1 before, 1 of 1 after, 1 later\n"
    assert responder.count(leaf) >= 2


@one_thread_possible
@pytest.mark.parametrize("who, times", [("single", 50), ("leader", 50), ("standby", 10)])
def test_a_host_may_do_it_again_and_again(shim, issue, who, times):
    leaf = issue("localhost")

    said = alone(shim, leaf, "memory", who, times)

    assert said == f"1 before, {times} of {times} after, 1 later\n"


@one_thread_possible
@pytest.mark.parametrize("times", [1, 5])
def test_a_host_may_do_it_in_the_middle_of_a_fetch(shim, issue, times):
    leaf = issue("localhost", behaviour=answers.delayed(6, answers.good()))

    ran = run_host(
        shim, leaf, "alone", "fetching", "single", times, 14000, OCSPRELOAD_STARTUP_WAIT="0"
    )

    assert ran.stdout == f"0 before, 0 of {times} after, 1 later\n", ran.stderr


def test_what_the_kernel_refuses_for_a_thread_of_the_hosts_own_stays_refused(shim, issue):
    leaf = issue("localhost")
    refused = "refused: Invalid argument\n"

    assert run_host(None, leaf, "alone", "company", "single", 1, 0).stdout == refused
    ran = run_host(shim, leaf, "alone", "company", "single", 1, 0)
    assert ran.stdout == refused, ran.stderr


@pytest.mark.parametrize(
    "what", ["daemon", "vfork", "spawn", "close_range", "subreaper", "undumpable"]
)
def test_what_daemons_do_costs_no_staple(shim, issue, responder, what):
    leaf = issue("localhost", behaviour=answers.soon_due(SHORT))

    # What was there at first is over by then.
    ran = run_host(shim, leaf, "life", what, REST)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "1 stapled\n", ran.stderr
    assert responder.count(leaf) >= 2


def test_threads_shake_hands_while_the_response_is_replaced(shim, issue, responder):
    leaf = issue("localhost", behaviour=answers.soon_due())

    ran = run_host(shim, leaf, "thread", 4, 10000)

    assert ran.returncode == 0, ran.stderr
    handshakes, stapled = (int(word) for word in ran.stdout.split() if word.isdigit())
    assert handshakes == stapled > 0, ran.stderr
    assert responder.count(leaf) >= 2


def test_errno_and_the_error_queue_are_as_the_host_left_them(shim, issue):
    leaf = issue("localhost")

    assert run_host(None, leaf, "traces").stdout == "no traces\n"
    ran = run_host(shim, leaf, "traces")
    assert ran.stdout == "no traces\n", ran.stderr


def test_a_callback_of_the_hosts_own_comes_first_and_is_the_one_its_getter_shows(shim, issue):
    leaf = issue("localhost")

    ran = run_host(shim, leaf, "callback", OCSPRELOAD_LOG_LEVEL="error")

    assert ran.returncode == 0, ran.stderr
    none, staples, took_back = ran.stdout.splitlines()
    size = int(none.split()[3])
    assert size > 100
    assert none == f"host has none: {size} bytes, 1 calls"
    assert staples == "host staples: 5 bytes, 2 calls"
    assert took_back == f"host took it back: {size} bytes, 2 calls"
