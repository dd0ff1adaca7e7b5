# SPDX-License-Identifier: MIT
"""The machine's agent: one process that fetches for those that cannot."""

import contextlib
import ctypes
import functools
import itertools
import os
import pathlib
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback

import daemons
import daemons_long
import daemons_net
import daemons_web
import hosts_table
import pytest
import responder as r
import servers
import test_servers
from client import assert_strict, handshake
from cryptography.hazmat.primitives import serialization
from conftest import needs_root, plain_build_only
from servers import BUILD, SANITIZE, end_tree
from support import wait_until
from test_hazards import inherits_no_socket, run_host

QUESTION = b"OCSPq\0\0\1"
ANSWER = b"OCSPa\0\0\1"
HOLDS, ASKS, FAILED, REFUSES = range(4)
_names = itertools.count(1)


def address_of(name):
    return "\0" + name[1:] if name.startswith("@") else name


def ask(name, message, timeout=60):
    """What a stranger who speaks the protocol gets; None if the agent hangs up."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(timeout)
        # Not at once where its queue is full for a moment.
        wait_until(lambda: connection.connect_ex(address_of(name)) == 0)
        connection.sendall(message)
        return connection.recv(1 << 20) or None


def field(content):
    return struct.pack(">I", len(content)) + content


def question(certificate, issuer=b"", flags=0):
    return QUESTION + bytes([flags]) + field(certificate) + field(issuer)


def fields(answer):
    """Status, due, response, issuer, why."""
    assert answer.startswith(ANSWER)
    status, due = struct.unpack_from(">BQ", answer, 8)
    rest, parts = answer[17:], []
    while rest:
        size = struct.unpack_from(">I", rest)[0]
        parts.append(rest[4 : 4 + size])
        rest = rest[4 + size :]
    return status, due, *parts


class Agent:
    def __init__(self, shim, directory, name, *options, wrapper=(), **environment):
        self.name = name
        self._shim = shim
        self._log = directory / f"agent-{next(_names)}.log"
        # ThreadSanitizer's shadow has no room for all that address randomisation does.
        plain = ["setarch", "-R"] if "thread" in SANITIZE else []
        self._command = [*wrapper, *plain, str(BUILD / "ocspctl"), "agent", *options]
        self._environment = shim.environment(
            LD_PRELOAD=None, OCSPRELOAD_AGENT=name, **environment
        )
        self.process = None

    def start(self, serves=True):
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log
            )
        if serves:
            wait_until(self._serves, what=self.log)
        return self

    def _serves(self):
        """
        It hangs up on who ends without a question. To be connected says only that it listens, which
        is before it has given up root and catches signals.
        """
        assert self.process.poll() is None, self.log()
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe,
        ):
            probe.settimeout(20)
            probe.connect(address_of(self.name))
            probe.shutdown(socket.SHUT_WR)
            return probe.recv(1) == b""
        return False

    def stop(self):
        if self.process:
            self.process.terminate()
            process, self.process = self.process, None
            status = process.wait(60)
            self._shim.keep_report(self.log())
            return status
        return None

    def log(self):
        return self._log.read_text(errors="replace")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.process and self.process.poll() is None:
            end_tree(self.process.pid)
            self.process.wait()


@pytest.fixture
def name():
    return f"@ocspreload-test-{os.getpid()}-{next(_names)}"


@pytest.fixture
def agent(shim, tmp_path, name):
    """Starts agents; the first argument is what they are called."""
    with contextlib.ExitStack() as stack:

        def start(called=None, *options, serves=True, **more):
            one = Agent(shim, tmp_path, called or name, *options, **more)
            return stack.enter_context(one).start(serves)

        yield start


@pytest.fixture
def with_quick_agent(name):
    return functools.partial(run_with_quick_agent, name)


def run_with_quick_agent(name, test, times=5):
    """
    Runs a test that needs an agent that always answers within a host's patience, a quarter of a
    second. That one had to wait for a processor meanwhile is no reason to fail: it is run again.
    """
    with watched(name) as slowest:
        try:
            return test()
        except AssertionError:
            if times == 1 or slowest() < 0.2:
                raise
    return run_with_quick_agent(name, test, times - 1)


@contextlib.contextmanager
def watched(name):
    """A function that tells the longest that the agent took for anything so far, in seconds."""
    times = [time.monotonic()]
    is_over = threading.Event()

    def look():
        while not is_over.wait(0.01):
            with (
                contextlib.suppress(OSError),
                socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe,
            ):
                probe.connect(address_of(name))
                probe.shutdown(socket.SHUT_WR)
                probe.recv(1)
            times.append(time.monotonic())

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield lambda: max(
            later - earlier for earlier, later in zip(times, [*times[1:], time.monotonic()])
        )
    finally:
        is_over.set()
        looking.join()


@pytest.fixture
def asking(name):
    """The environment of a host that asks it."""
    return {"OCSPRELOAD_AGENT": name}


def test_a_server_staples_what_the_agent_fetches(
    agent, with_quick_agent, asking, s_server, issue, responder, tmp_path
):
    running = agent()

    def staples():
        leaf = issue(behaviour=r.delayed(0.2, r.good()))
        server = s_server(leaf, environment=asking)
        assert_strict(handshake(server.port).staple, leaf, tmp_path)
        assert responder.count(leaf) == 1
        wait_until(lambda: "stapling the response of the agent" in server.log())
        wait_until(lambda: "stapling the response of http" in running.log())

    with_quick_agent(staples)


def test_servers_that_share_no_store_fetch_once(
    agent, with_quick_agent, asking, s_server, issue, responder
):
    agent()

    def fetch_once():
        leaf = issue(behaviour=r.delayed(0.3, r.good()))
        servers = [s_server(leaf, environment=asking) for _ in range(4)]
        assert all(handshake(server.port).stapled for server in servers)
        assert responder.count(leaf) == 1

    with_quick_agent(fetch_once)


def test_every_refresh_of_the_machine_is_one_request(
    agent, with_quick_agent, asking, s_server, issue, responder
):
    running = agent()

    def refresh():
        leaf = issue(behaviour=r.soon_due())
        servers = [s_server(leaf, environment=asking) for _ in range(3)]
        while responder.count(leaf) < 4:
            assert all(handshake(server.port).stapled for server in servers), running.log()
            assert running.process.poll() is None
        # The agent has made them, all of them.
        assert running.log().count("asking http") >= 4
        assert not any("asking http" in server.log() for server in servers)

    with_quick_agent(refresh)


def test_a_restart_while_the_responder_is_down_needs_neither_store_nor_thread(
    agent, with_quick_agent, asking, s_server, issue, responder, tmp_path
):
    leaf = issue()
    running = agent()
    server = s_server(leaf, environment=asking)
    assert handshake(server.port).stapled
    # One that was too busy has yet to fetch it.
    wait_until(lambda: "stapling the response of http" in running.log())
    server.stop()
    responder.stop()

    def needs_it_alone():
        server = s_server(leaf, environment=asking)
        assert_strict(handshake(server.port).staple, leaf, tmp_path)
        assert not server.shim_lines("warning", "error")

    with_quick_agent(needs_it_alone)


def test_without_an_agent_all_is_as_before(asking, s_server, issue, responder, tmp_path):
    leaf = issue()
    server = s_server(leaf, environment=asking)
    assert_strict(handshake(server.port).staple, leaf, tmp_path)
    assert responder.count(leaf) == 1
    assert not server.shim_lines("warning", "error")


def test_an_agent_that_comes_goes_and_comes_again_is_not_missed(
    agent, asking, s_server, issue, responder
):
    leaf = issue(behaviour=r.soon_due())
    server = s_server(leaf, environment=asking)
    assert handshake(server.port).stapled
    for _ in range(2):
        running = agent()
        wait_until(lambda: handshake(server.port).stapled and "asking http" in running.log())
        running.stop()
        before = responder.count(leaf)
        wait_until(lambda: handshake(server.port).stapled and responder.count(leaf) > before)


def test_an_agent_that_is_restarted_has_what_it_had(
    agent, with_quick_agent, asking, s_server, issue, responder, tmp_path
):
    leaf = issue()
    store = tmp_path / "agent-store"
    store.mkdir(mode=0o755)
    running = agent(OCSPRELOAD_STORE=str(store))
    assert handshake(s_server(leaf, environment=asking).port).stapled
    wait_until(lambda: list(store.glob("*.der")))
    assert running.stop() == 0
    responder.stop()
    agent(OCSPRELOAD_STORE=str(store))

    def has_it():
        server = s_server(leaf, environment=asking)
        assert_strict(handshake(server.port).staple, leaf, tmp_path)

    with_quick_agent(has_it)


def test_what_the_agent_cannot_get_a_server_gets_itself(
    agent, asking, s_server, issue, responder, tmp_path
):
    leaf = issue()
    # It has a network of its own, with nothing in it; the path is the only thing in common.
    path = str(tmp_path / "agent")
    agent(path, wrapper=["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "-rn"])
    server = s_server(leaf, environment={"OCSPRELOAD_AGENT": path})
    assert_strict(wait_until(lambda: handshake(server.port).staple), leaf, tmp_path)
    assert responder.count(leaf) == 1


# Of the agent's own.
with_and_without_a_store = pytest.mark.parametrize("has_store", [True, False])


@with_and_without_a_store
def test_a_revocation_reaches_those_that_ask_the_agent(
    agent, with_quick_agent, asking, name, s_server, issue, authority, stored, has_store
):
    agent(**stored if has_store else {})
    issuer = authority.certificate.public_bytes(serialization.Encoding.DER)

    def reaches_it():
        leaf = issue(behaviour=r.revoked())
        wait_until(lambda: fields(ask(name, question(der(leaf), issuer)))[0] != ASKS)
        server = s_server(leaf, environment=asking)
        assert not handshake(server.port).stapled
        wait_until(lambda: "revoked since" in server.log(), what=server.log)
        wait_until(lambda: "says the agent" in server.log())

    with_quick_agent(reaches_it)


# Nothing is left to such a server but to ask the agent.
ALONE = {"OCSPRELOAD_FETCH": "off", "OCSPRELOAD_STORE": "off", "OCSPRELOAD_STARTUP_WAIT": "20s"}


@with_and_without_a_store
@pytest.mark.parametrize("fetch", ["on", "off"])
def test_a_host_that_staples_hears_of_a_revocation_when_it_asks_next(
    agent, with_quick_agent, asking, s_server, issue, responder, stored, has_store, fetch
):
    running = agent(**stored if has_store else {})

    def hears_of_it():
        leaf = issue(behaviour=r.soon_due(30))
        server = s_server(leaf, environment={**asking, "OCSPRELOAD_FETCH": fetch})
        assert wait_until(lambda: handshake(server.port).stapled)
        responder.answer(leaf, r.revoked())
        wait_until(lambda: not handshake(server.port).stapled)
        # Long before what was good would have ended, and from the agent alone.
        wait_until(lambda: "says the agent" in server.log(), 2)
        asked = [line for line in running.log().splitlines() if "asking http" in line]
        assert sum(f"{leaf.serial:X}" in line for line in asked) == responder.count(leaf) == 2

    with_quick_agent(hears_of_it)


@with_and_without_a_store
def test_a_revocation_is_told_once_however_many_handshakes_ask(
    agent, asking, s_server, issue, stored, has_store
):
    leaf = issue(behaviour=r.revoked())
    agent(**stored if has_store else {})
    server = s_server(leaf, environment={**asking, **ALONE})
    wait_until(lambda: not handshake(server.port).stapled and "says the agent" in server.log())
    for _ in range(5):
        assert not handshake(server.port).stapled
    assert len(server.shim_lines("error")) == 1


def test_a_first_handshake_waits_for_an_agent_that_is_busy(
    agent, asking, name, s_server, issue, tmp_path
):
    leaf = issue(behaviour=r.delayed(0.3, r.good()))
    busy = agent(f"{name}-busy")
    slow = Impostor(name, relay(busy.name, after=0.05))
    try:
        server = s_server(leaf, environment={**asking, **ALONE})
        # What was asked when the certificate was loaded is long ago.
        time.sleep(1.2)
        assert_strict(handshake(server.port).staple, leaf, tmp_path)
    finally:
        slow.close()


def test_a_first_handshake_waits_for_an_agent_that_was_silent_at_first(
    agent, asking, name, s_server, issue, tmp_path
):
    """A machine may stand still for a moment just then."""
    leaf = issue()
    awake = agent(f"{name}-awake")
    lines = itertools.chain([be_silent] * 2, itertools.repeat(relay(awake.name, after=0)))
    sleepy = Impostor(name, lambda connection: next(lines)(connection))
    try:
        server = s_server(leaf, environment={**asking, **ALONE})
        assert_strict(handshake(server.port).staple, leaf, tmp_path)
    finally:
        sleepy.close()


def test_a_host_that_must_not_fetch_has_what_the_agent_has(
    agent, asking, s_server, issue, responder, tmp_path
):
    leaf = issue(behaviour=r.soon_due(20))
    agent()
    server = s_server(leaf, environment={**asking, "OCSPRELOAD_FETCH": "off"})
    first = handshake(server.port).staple
    assert_strict(first, leaf, tmp_path)
    wait_until(lambda: handshake(server.port).staple not in (first, None))
    assert_strict(handshake(server.port).staple, leaf, tmp_path)
    assert "ocspreload" not in server.threads()


def test_an_issuer_that_the_server_does_not_know_comes_from_the_agent(
    agent, asking, python_server, issue, authority, tmp_path
):
    leaf = issue()
    pem = tmp_path / "alone.pem"
    pem.write_bytes(leaf.certificate_file.read_bytes() + leaf.key_file.read_bytes())
    agent(OCSPRELOAD_TRUSTED=str(authority.file))
    server = python_server(pem, environment={**asking, "OCSPRELOAD_FETCH": "off"})
    assert_strict(wait_until(lambda: handshake(server.port).staple), leaf, tmp_path)


# Lies, silence, and strangers.


class Impostor:
    """Listens where the agent would, and does what it is told with each connection."""

    def __init__(self, name, behave):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(address_of(name))
        self._socket.listen(64)
        self._behave = behave
        self._open = []
        self.asked = 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self._open.append(connection)
                self.asked += 1
                self._behave(connection)

    def close(self):
        # Wakes accept, which close alone would not.
        self._socket.shutdown(socket.SHUT_RDWR)
        for connection in [self._socket, *self._open]:
            connection.close()


def relay(name, after):
    """Passes all questions on, and the answers back so much later."""

    def behave(connection):
        with contextlib.suppress(OSError), connection:
            answer = ask(name, connection.recv(1 << 20))
            time.sleep(after)
            connection.send(answer)

    return behave


def say(message):
    """Answers all questions so, and hangs up."""

    def behave(connection):
        with contextlib.suppress(OSError), connection:
            connection.recv(1 << 20)
            connection.send(message)

    return behave


def be_silent(connection):
    pass


def an_answer(status, response=b"", due=1 << 62, issuer=b"", why=b""):
    return ANSWER + struct.pack(">BQ", status, due) + field(response) + field(issuer) + field(why)


NONSENSE = {
    "silence": be_silent,
    "nothing": socket.socket.close,
    "a byte": say(b"O"),
    "another protocol": say(b"HTTP/1.1 200 OK\r\n\r\n"),
    "a status that is none": say(an_answer(4)),
    "a size beyond the end": say(ANSWER + struct.pack(">BQI", 0, 0, 0xFFFFFFFF)),
    "bytes after the end": say(an_answer(HOLDS) + b"x"),
    "all that a packet can hold": say(ANSWER + bytes(150000)),
    "words with an escape": say(an_answer(FAILED, why=b"\x1b[2J")),
    "no response": say(an_answer(HOLDS)),
    "no OCSP": say(an_answer(HOLDS, b"0\x03\x0a\x01\x00")),
    "a refusal": say(an_answer(REFUSES, why=b"no")),
}


@pytest.mark.parametrize("nonsense", NONSENSE, ids=lambda name: name.replace(" ", "-"))
def test_an_agent_that_talks_nonsense_is_as_none(
    name, asking, s_server, issue, responder, tmp_path, nonsense
):
    leaf = issue()
    impostor = Impostor(name, NONSENSE[nonsense])
    try:
        server = s_server(leaf, environment=asking)
        assert_strict(handshake(server.port).staple, leaf, tmp_path)
        assert responder.count(leaf) == 1 and impostor.asked
    finally:
        impostor.close()


def test_what_an_agent_makes_up_is_not_stapled(
    name, asking, s_server, issue, authority, responder, tmp_path
):
    leaf, other = issue(behaviour=r.hanging()), issue("other.test")
    lies = itertools.cycle(
        [
            authority.respond(other.certificate),
            authority.respond(leaf.certificate, this_update=-7200, next_update=-3600),
            authority.respond(leaf.certificate)[:-1] + b"\0",
        ]
    )
    impostor = Impostor(name, lambda connection: say(an_answer(HOLDS, next(lies)))(connection))
    try:
        variables = {"OCSPRELOAD_STARTUP_WAIT": "500ms", "OCSPRELOAD_FETCH": "off"}
        server = s_server(leaf, environment={**asking, **variables})
        end = time.monotonic() + 3.5

        def each_was_told():
            assert not handshake(server.port).stapled
            # The last of them may be on its way.
            return time.monotonic() > end and impostor.asked > 3

        wait_until(each_was_told, what=server.log)
        wait_until(lambda: "the agent's response is of no use" in server.log())
    finally:
        impostor.close()


@needs_root
def test_an_abstract_name_that_another_user_has_taken_is_left_alone(
    name, asking, s_server, issue, responder, tmp_path
):
    leaf = issue()
    script = (
        "import socket, sys\n"
        "listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        f"listener.bind('\\0{name[1:]}')\n"
        "listener.listen(64)\n"
        "while True:\n"
        " connection, _ = listener.accept()\n"
        " print(len(connection.recv(1 << 20)), flush=True)\n"
    )
    heard = tmp_path / "heard"
    with heard.open("wb") as output:
        stranger = subprocess.Popen(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
            + [sys.executable, "-c", script],
            stdout=output,
        )
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            wait_until(lambda: probe.connect_ex(address_of(name)) == 0)
        server = s_server(leaf, environment=asking)
        assert_strict(handshake(server.port).staple, leaf, tmp_path)
        assert responder.count(leaf) == 1
        # It was not even asked.
        assert set(heard.read_text().split()) <= {"0"}
    finally:
        end_tree(stranger.pid)
        stranger.wait()


def test_a_child_inherits_no_descriptor_of_a_question_under_way(name, shim, issue):
    leaf = issue(behaviour=r.hanging())
    # The host's thread, which loads, is answered; the shim's is not.
    lines = itertools.chain([say(an_answer(ASKS))], itertools.repeat(be_silent))
    impostor = Impostor(name, lambda connection: next(lines)(connection))
    variables = {"OCSPRELOAD_AGENT": name, "OCSPRELOAD_STARTUP_WAIT": "0"}

    def forked_meanwhile():
        nonlocal lines
        lines = itertools.chain([say(an_answer(ASKS))], itertools.repeat(be_silent))
        ran = run_host(shim, leaf, "sockets", 20, **variables)
        return inherits_no_socket(ran) and "asking http" not in ran.stderr

    try:
        wait_until(forked_meanwhile)
    finally:
        impostor.close()


@pytest.mark.parametrize("how", ["syscall", "_Fork"])
def test_nor_does_one_that_is_made_past_fork_while_another_thread_asks(name, shim, issue, how):
    leaf = issue()
    impostor = Impostor(name, be_silent)
    variables = {"OCSPRELOAD_AGENT": name, "OCSPRELOAD_FETCH": "off"}
    try:
        wait_until(lambda: inherits_no_socket(run_host(shim, leaf, "question", how, **variables)))
    finally:
        impostor.close()


# What it does to strangers.


def der(leaf):
    return leaf.certificate.public_bytes(serialization.Encoding.DER)


def test_a_question_is_answered_in_the_words_of_its_protocol(
    agent, name, issue, responder, authority, tmp_path
):
    leaf = issue()
    issuer = authority.certificate.public_bytes(serialization.Encoding.DER)
    agent()
    status, *_ = fields(ask(name, question(der(leaf), flags=1)))
    assert status == REFUSES and responder.count(leaf) == 0

    def answered():
        answer = fields(ask(name, question(der(leaf), issuer)))
        return answer if answer[0] != ASKS else None

    status, due, response, sent_issuer, why = wait_until(answered)
    assert status == HOLDS and not sent_issuer and not why
    assert time.time() * 1000 < due < (time.time() + 3600) * 1000
    assert_strict(response, leaf, tmp_path)
    # Who does not know the issuer is told.
    assert fields(ask(name, question(der(leaf))))[3] == issuer


def test_what_is_not_a_question_is_not_answered(agent, name, issue):
    running = agent()
    good = question(der(issue()))
    for message in (
        b"O",
        b"GET / HTTP/1.0\r\n\r\n",
        good[:-1],
        good + b"x",
        question(b""),
        question(b"x", flags=2),
        question(bytes(40000)),
        bytes(150000),
    ):
        with contextlib.suppress(ConnectionResetError):
            assert ask(name, message) is None
    status, _, _, _, why = fields(ask(name, question(b"0\x03\x02\x01\x00")))
    assert status == REFUSES and why == b"that is not a certificate"
    assert fields(ask(name, good))[0] == ASKS
    assert running.process.poll() is None


def test_a_wrong_issuer_spoils_nothing_for_others(
    agent, with_quick_agent, asking, name, s_server, issue, ec_authority, responder
):
    wrong = ec_authority.certificate.public_bytes(serialization.Encoding.DER)
    agent()

    def is_spoilt_by_nobody():
        leaf = issue()
        assert fields(ask(name, question(der(leaf), wrong)))[0] == ASKS
        server = s_server(leaf, environment=asking)
        assert handshake(server.port).stapled
        assert responder.count(leaf) == 1

    with_quick_agent(is_spoilt_by_nobody)


@needs_root
def test_a_user_may_have_only_so_many_certificates_and_root_any(
    agent, name, issue, authority, responder, public
):
    running = agent(OCSPRELOAD_LOG_LEVEL="warning")
    leaves = [der(issue(f"{number}.test")) for number in range(130)]
    script = (
        "import socket, sys\n"
        "for line in sys.stdin:\n"
        " with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:\n"
        f"  connection.connect('\\0{name[1:]}')\n"
        "  connection.send(bytes.fromhex(line))\n"
        "  print(connection.recv(1 << 20)[8])\n"
    )
    result = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        + [sys.executable, "-c", script],
        input="\n".join(question(leaf).hex() for leaf in leaves),
        capture_output=True,
        text=True,
        check=True,
    )
    statuses = [int(line) for line in result.stdout.split()]
    assert statuses.count(REFUSES) == 2 and statuses[-2:] == [REFUSES] * 2
    assert fields(ask(name, question(leaves[-1])))[0] != REFUSES
    assert running.process.poll() is None


@needs_root
def test_a_user_who_says_nothing_on_many_connections_keeps_nobody_else_out(
    agent, asking, name, s_server, issue, responder
):
    leaf = issue()
    agent()
    script = (
        "import socket, time\n"
        "silent = []\n"
        "print(flush=True)\n"
        "while True:\n"
        " connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        " connection.setblocking(False)\n"
        " try:\n"
        f"  connection.connect('\\0{name[1:]}')\n"
        " except OSError:\n"
        "  time.sleep(0.01)\n"
        " silent = silent[-200:] + [connection]\n"
    )
    flood = subprocess.Popen(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        + [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
    )
    try:
        assert flood.stdout.read(1)
        for _ in range(20):
            assert fields(ask(name, question(der(leaf))))
        server = s_server(leaf, environment=asking)
        assert handshake(server.port).stapled
    finally:
        end_tree(flood.pid)
        flood.wait()


def test_a_second_agent_of_that_name_says_so_and_ends(agent, name):
    agent()
    second = agent(serves=False)
    assert second.process.wait(60) == 1
    assert "Address already in use" in second.log()


def test_a_path_that_a_killed_agent_left_is_taken_over(agent, asking, s_server, issue, tmp_path):
    path = str(tmp_path / "agent")
    first = agent(path)
    first.process.kill()
    first.process.wait()
    assert os.path.exists(path)
    agent(path)

    def is_asked():
        server = s_server(issue(), environment={"OCSPRELOAD_AGENT": path})
        assert handshake(server.port).stapled
        wait_until(lambda: "the agent" in server.log())

    run_with_quick_agent(path, is_asked)


def test_a_supervisor_may_listen_for_it_and_is_told_when_it_is_ready(
    shim, issue, name, tmp_path
):
    """As systemd does: descriptor 3, LISTEN_FDS, NOTIFY_SOCKET."""
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(tmp_path / "notify"))
    notify.settimeout(60)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address_of(name))
    listener.listen(16)
    script = (
        "import os, sys\n"
        "os.dup2(int(sys.argv[1]), 3)\n"
        "os.environ['LISTEN_PID'] = str(os.getpid())\n"
        "os.execv(sys.argv[2], sys.argv[2:])\n"
    )
    environment = shim.environment(
        LD_PRELOAD=None, LISTEN_FDS="1", NOTIFY_SOCKET=str(tmp_path / "notify")
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(listener.fileno()), str(BUILD / "ocspctl"), "agent"],
        env=environment,
        pass_fds=[listener.fileno()],
    )
    try:
        assert notify.recv(100) == b"READY=1"
        assert fields(ask(name, question(der(issue()))))[0] == ASKS
    finally:
        end_tree(process.pid, patience=60)
    assert process.wait() == 0


@needs_root
def test_it_gives_up_root_and_is_believed_by_other_users_all_the_same(
    agent, with_quick_agent, asking, python_server, issue, responder, public, tmp_path
):
    store = public / "store"
    running = agent(None, "-U", "nobody", OCSPRELOAD_STORE=str(store))
    status = pathlib.Path(f"/proc/{running.process.pid}/status").read_text()
    assert re.search(r"Uid:\t65534\t65534\t65534\t65534", status)
    assert re.search(r"CapPrm:\t0+\n", status) and re.search(r"Groups:\t\s*\n", status)
    pem = public / "pem"
    pem.touch()
    pem.chmod(0o644)
    other = ["setpriv", "--reuid=1", "--regid=1", "--clear-groups"]

    def is_believed():
        pem.write_bytes(issue().pem_file.read_bytes())
        server = python_server(pem, environment=asking, wrapper=other)
        assert handshake(server.port).stapled
        wait_until(lambda: "the agent" in server.log())
        wait_until(lambda: list(store.glob("*.der")))

    with_quick_agent(is_believed)


# The servers that it is for.


KINDS = [
    daemons.Dovecot,
    daemons.DovecotPop3,
    daemons.Postfix,
    daemons.Stunnel,
    daemons.StunnelInJail,
    daemons.Unbound,
    daemons.PhpCli,
    daemons.PostfixWithStore,
    daemons.Proftpd,
    daemons_web.Hitch,
    daemons_web.H2o,
    daemons_long.Squid,
    daemons_long.Uwsgi,
    daemons_net.Dnsdist,
    daemons_net.Memcached,
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__.lower())


@every_kind
@needs_root
@plain_build_only
def test_a_server_that_cannot_help_itself_staples_from_its_first_handshake_on_and_after_a_restart(
    agent, asking, daemon, kind, issue, responder, tmp_path, seen
):
    leaf = issue(kind="rsa", behaviour=r.delayed(0.15, r.good()))
    agent()
    server = daemon(kind, leaf, environment=asking)
    assert_strict(server.handshake().staple, leaf, tmp_path)
    for tls in ("1.2", "1.3", "1.2", "1.3"):
        assert server.handshake(tls=tls).stapled, server.log()
    assert not server.shim_lines("error", "warning")
    server.stop()
    responder.stop()
    # A new process, with neither store nor responder.
    server = daemon(kind, leaf, environment=asking)
    assert_strict(server.handshake().staple, leaf, tmp_path)
    assert responder.count(leaf) == 1
    seen(kind, words="stapled, with the agent")
    seen(kind, hosts_table.RESTART, "stapled, with the agent")


@needs_root
@plain_build_only
def test_dovecot_has_what_the_agent_fetches_anew_and_none_of_it_while_there_is_none(
    agent, asking, daemon, issue, responder, tmp_path
):
    leaf = issue(kind="rsa", behaviour=r.soon_due(20))
    server = daemon(daemons.Dovecot, leaf, environment=asking)
    assert not server.handshake().stapled
    running = agent()
    first = server.handshake().staple
    assert_strict(first, leaf, tmp_path)
    wait_until(lambda: server.handshake().staple not in (first, None))
    running.stop()
    assert not server.handshake().stapled
    assert server.handshake().answer.startswith(b"* OK")


# What all servers are tested for, with those that need an agent for it.


@pytest.fixture
def with_agent(agent, shim, asking):
    agent()
    shim.variables.update(asking)


dovecot_and_php = pytest.mark.parametrize(
    "kind",
    [daemons.Dovecot, daemons.DovecotPop3, daemons.PhpCli],
    ids=lambda kind: kind.__name__.lower(),
)


@dovecot_and_php
@needs_root
@plain_build_only
def test_it_serves_logs_and_ends_as_without_the_shim(with_agent, daemon, kind, issue):
    test_servers.test_serves_logs_and_ends_as_without_the_shim(daemon, kind, issue)


@dovecot_and_php
@needs_root
@plain_build_only
def test_its_renewed_certificate_is_stapled_from_its_first_handshake_on(
    with_agent, daemon, kind, issue, responder, tmp_path
):
    test_servers.test_a_renewed_certificate_is_stapled_from_its_first_handshake_on(
        daemon, kind, issue, responder, tmp_path
    )


@dovecot_and_php
@needs_root
@plain_build_only
def test_a_reload_of_it_costs_no_staple(with_agent, daemon, kind, issue, responder, seen):
    test_servers.test_a_reload_costs_no_staple_and_no_request(
        daemon,
        kind,
        issue,
        responder,
        lambda kind, what, words: seen(kind, what, f"{words}, with the agent"),
    )


@pytest.fixture
def ocspctl(shim, asking):
    def run(*words):
        result = subprocess.run(
            [BUILD / "ocspctl", *words],
            env=shim.environment(LD_PRELOAD=None, OCSPRELOAD_LOG_LEVEL="warning", **asking),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return result.returncode, result.stdout

    return run


def test_ocspctl_tells_what_the_agent_has(
    agent, with_quick_agent, ocspctl, name, issue, responder, authority
):
    agent()
    issuer = authority.certificate.public_bytes(serialization.Encoding.DER)

    def is_told():
        leaf = issue()
        code, output = ocspctl("status", leaf.chain_file)
        assert code == 1
        assert "the agent has nothing: nobody has asked for it" in output
        assert responder.count(leaf) == 0
        wait_until(lambda: fields(ask(name, question(der(leaf), issuer)))[0] == HOLDS)
        for command in ("status", "doctor"):
            code, output = ocspctl(command, leaf.chain_file)
            assert code == 0
            assert re.search(r"the agent asks again at \S+Z; good: usable until \S+Z\n$", output)

    with_quick_agent(is_told)


# Where it is looked for.


def in_a_network_of_its_own(test):
    """In a child, so that abstract names are nobody else's."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            clone_newnet = 0x40000000
            assert ctypes.CDLL(None, use_errno=True).unshare(clone_newnet) == 0
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            test()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


@needs_root
def test_it_is_asked_at_its_default_name_unless_told_otherwise(shim, authority, tmp_path):
    @contextlib.contextmanager
    def stapling_server(responder, told):
        leaf = authority.issue(responder=responder.url)
        responder.answer(leaf, r.good())
        directory = tmp_path / f"server-{next(_names)}"
        directory.mkdir()
        environment = {"OCSPRELOAD_AGENT": told}
        with servers.SServer(directory, shim, leaf, environment=environment) as server:
            assert_strict(handshake(server.port).staple, leaf, tmp_path)
            yield server

    def test():
        with r.Responder() as own, Agent(shim, tmp_path, "@ocspreload") as running:
            running.start()

            def is_asked():
                with stapling_server(own, None) as server:
                    wait_until(lambda: "response of the agent" in server.log())

            run_with_quick_agent("@ocspreload", is_asked)
            with stapling_server(own, "off") as server:
                assert "agent" not in server.log()

    in_a_network_of_its_own(test)


@needs_root
@plain_build_only
def test_a_server_that_is_chrooted_before_it_loads_anything_finds_it_by_the_file(
    agent, name, daemon, issue, tmp_path
):
    leaf = issue(kind="rsa")
    agent()
    file = daemons_long.with_etc(tmp_path, {"ocspreload.conf": f"OCSPRELOAD_AGENT={name}\n"})
    server = daemon(daemons.Dovecot, leaf, environment={"OCSPRELOAD_AGENT": None}, wrapper=file)
    assert_strict(server.handshake().staple, leaf, tmp_path)


def test_a_place_where_it_cannot_be_is_reported(s_server, issue):
    server = s_server(issue(), environment={"OCSPRELOAD_AGENT": "relative/path"})
    assert handshake(server.port).stapled
    (line,) = server.shim_lines("warning")
    assert "OCSPRELOAD_AGENT=relative/path in the environment is not on, off, @NAME" in line
