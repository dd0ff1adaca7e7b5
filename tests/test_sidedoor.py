# SPDX-License-Identifier: MIT
"""Servers that no hook is called in: they look OpenSSL up by themselves, or have it inside."""

import concurrent.futures
import functools
import subprocess
import sys

import daemons_web
import pytest
import responder as r
import test_servers
from client import Client, assert_strict, handshake
from conftest import needs_root, plain_build_only
from servers import BUILD, HERE, ROOT, Server

VERSIONS = ["1.2", "1.3"]
HIDING = "goes past the hooks"


class LookupHost(Server):
    def __init__(self, directory, shim, leaf, *words, **options):
        super().__init__(directory, shim, **options)
        self._leaf = leaf
        self._words = words

    def command(self):
        files = [str(self._leaf.chain_file), str(self._leaf.key_file)]
        return [str(BUILD / "hosts" / "lookup_host"), str(self.port), *files, *self._words]


@functools.lru_cache(maxsize=None)
def official_node(major):
    script = ROOT / "scripts" / "official-node"
    return subprocess.check_output([script, str(major)], text=True, timeout=600).strip()


class OfficialNode(Server):
    def __init__(self, directory, shim, leaf, *named, major=20, **options):
        super().__init__(directory, shim, **options)
        self._node = official_node(major)
        self._arguments = [leaf.chain_file, leaf.key_file, *named]

    def command(self):
        script = HERE / "hosts" / "node_server.js"
        return [self._node, str(script), str(self.port), *map(str, self._arguments)]


# As systemd does for a unit with a socket: it listens, and the server finds it open.
_HAND_OVER = """import os, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=64)
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


class OfficialNodeThatIsHandedItsSocket(OfficialNode):
    def command(self):
        return [sys.executable, "-c", _HAND_OVER, str(self.port), *super().command()]


@pytest.fixture
def lookup_host(_starter):
    return _starter(LookupHost)


@pytest.fixture
def node(_starter):
    return _starter(OfficialNode)


@pytest.mark.parametrize(
    "words",
    # The sanitizers' runtimes refuse RTLD_DEEPBIND.
    [[], pytest.param(["deep"], marks=plain_build_only), ["threads"], ["unused"]],
    ids=" ".join,
)
@pytest.mark.parametrize("tls", VERSIONS)
def test_a_host_that_looks_its_openssl_up_staples(
    lookup_host, issue, responder, words, tls, tmp_path
):
    leaf = issue()
    server = lookup_host(leaf, *words)
    for _ in range(3):
        assert_strict(handshake(server.port, tls=tls).staple, leaf, tmp_path)
    assert responder.count(leaf) == 1
    assert HIDING in server.log()
    assert not server.shim_lines("error", "warning")


def test_many_first_connections_of_such_a_host_at_once_are_all_stapled(
    lookup_host, issue, responder
):
    leaf = issue(behaviour=r.delayed(0.3, r.good()))
    server = lookup_host(leaf, "threads")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: Client().handshake(server.port), range(24)))
    assert all(result.stapled for result in results), server.log()
    assert responder.count(leaf) == 1


@pytest.mark.parametrize("words", [["callback"], ["callback", "late"]], ids=" ".join)
def test_its_own_callback_that_has_nothing_is_no_obstacle(lookup_host, issue, words, tmp_path):
    leaf = issue()
    server = lookup_host(leaf, *words)
    for _ in range(2):
        assert_strict(handshake(server.port).staple, leaf, tmp_path)


@pytest.mark.parametrize("words", [["response"], ["response", "late"]], ids=" ".join)
def test_what_its_own_callback_staples_wins(lookup_host, issue, words):
    server = lookup_host(issue(), *words)
    for _ in range(2):
        assert handshake(server.port).staple == b"mine"


def test_a_host_whose_calls_reach_the_hooks_has_no_side_door(s_server, nginx, issue):
    leaf = issue()
    for server in (s_server(leaf), nginx(leaf)):
        assert handshake(server.port).stapled
        assert HIDING not in server.log()


@plain_build_only
@pytest.mark.parametrize("major", [20, 24])
@pytest.mark.parametrize("tls", VERSIONS)
def test_the_official_node_staples(node, issue, responder, major, tls, tmp_path, seen):
    leaf, other = issue(), issue("other.test")
    server = node(leaf, f"other.test={other.pem_file}", major=major)
    for _ in range(3):
        answer = handshake(server.port, tls=tls)
        assert_strict(answer.staple, leaf, tmp_path)
        assert answer.body == b"hello"
    assert_strict(handshake(server.port, "other.test", tls=tls).staple, other, tmp_path)
    assert responder.count(leaf) == responder.count(other) == 1
    seen(OfficialNode)
    seen(OfficialNode, "version", "20, 24")


@plain_build_only
def test_the_official_node_with_nothing_to_staple_is_left_alone(node, issue, tmp_path):
    leaf = issue(responder=None)
    server = node(leaf)
    assert not handshake(server.port).stapled
    assert "ocspreload" not in server.threads()


@plain_build_only
def test_the_official_node_staples_at_a_socket_that_is_handed_over(
    _starter, issue, responder, tmp_path
):
    leaf = issue()
    server = _starter(OfficialNodeThatIsHandedItsSocket)(leaf)
    for _ in range(3):
        assert_strict(handshake(server.port).staple, leaf, tmp_path)
    assert responder.count(leaf) == 1


class NodeAsDaemon(daemons_web.Nodejs):
    def command(self):
        return [official_node(20), *super().command()[1:]]


@needs_root
@plain_build_only
def test_the_official_node_serves_logs_and_ends_as_without_the_shim(daemon, issue):
    test_servers.test_serves_logs_and_ends_as_without_the_shim(daemon, NodeAsDaemon, issue)


@needs_root
@plain_build_only
def test_a_renewed_certificate_of_the_official_node_is_stapled_from_its_first_handshake_on(
    daemon, issue, responder, tmp_path
):
    test_servers.test_a_renewed_certificate_is_stapled_from_its_first_handshake_on(
        daemon, NodeAsDaemon, issue, responder, tmp_path
    )


@needs_root
@plain_build_only
def test_a_reload_of_the_official_node_costs_no_staple_and_no_request(
    daemon, issue, responder, seen
):
    test_servers.test_a_reload_costs_no_staple_and_no_request(
        daemon,
        NodeAsDaemon,
        issue,
        responder,
        lambda kind, what, words: seen(OfficialNode, what, words),
    )


@needs_root
@plain_build_only
def test_a_restart_of_the_official_node_while_the_responder_is_down_staples_at_once(
    daemon, issue, responder, tmp_path, seen
):
    test_servers.test_a_restart_while_the_responder_is_down_staples_at_once(
        daemon,
        NodeAsDaemon,
        issue,
        responder,
        tmp_path,
        lambda kind, what: seen(OfficialNode, what),
    )
