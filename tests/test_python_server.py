# SPDX-License-Identifier: MIT
"""Python's ssl module: its libssl is loaded with RTLD_LOCAL, its server runs threads."""

import concurrent.futures
import signal

import pytest
import responder as r
from client import Client, assert_strict, handshake
from servers import PythonServer

VERSIONS = ["1.2", "1.3"]


@pytest.mark.parametrize("tls", VERSIONS)
def test_staples_on_the_first_handshake(python_server, issue, responder, tls, tmp_path, seen):
    leaf = issue()
    server = python_server(leaf.pem_file)
    for _ in range(3):
        assert_strict(handshake(server.port, tls=tls).staple, leaf, tmp_path)
    assert responder.count(leaf) == 1
    seen(PythonServer)


@pytest.mark.parametrize("tls", VERSIONS)
def test_a_context_that_is_switched_to_is_stapled(python_server, issue, tls, tmp_path):
    one, two = issue("one.test"), issue("two.test")
    server = python_server(one.pem_file, f"two.test={two.pem_file}")
    assert_strict(handshake(server.port, "two.test", tls=tls).staple, two, tmp_path)
    assert_strict(handshake(server.port, "one.test", tls=tls).staple, one, tmp_path)


def test_many_first_handshakes_at_once_are_all_stapled(python_server, issue, responder):
    leaf = issue()
    server = python_server(leaf.pem_file)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        # One client each: pyOpenSSL's contexts do not like to be shared by threads.
        results = list(pool.map(lambda _: Client().handshake(server.port), range(24)))
    assert all(result.stapled for result in results), server.log()
    assert responder.count(leaf) == 1


def test_a_chain_that_comes_late_is_not_too_late(late_chain_server, issue, responder, tmp_path):
    leaf = issue(behaviour=r.delayed(0.5, r.good()))
    server = late_chain_server(leaf)
    assert_strict(handshake(server.port).staple, leaf, tmp_path)
    assert responder.count(leaf) == 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_as_it_would_without(python_server, issue, how):
    leaf = issue()
    server, plain = python_server(leaf.pem_file), python_server(leaf.pem_file, shim=False)
    assert handshake(server.port).stapled
    assert server.stop(how) == plain.stop(how)
