# SPDX-License-Identifier: MIT
"""`openssl s_server`, which links libssl and does as little as can be done with it."""

import pytest
import responder as r
from client import assert_strict, handshake
from servers import SServer

VERSIONS = ["1.2", "1.3"]


@pytest.mark.parametrize("kind", ["rsa", "ec"])
@pytest.mark.parametrize("tls", VERSIONS)
def test_staples_on_the_first_handshake(
    s_server, issue, responder, tls, kind, tmp_path, seen
):
    leaf = issue(kind=kind)
    server = s_server(leaf)
    for _ in range(3):
        assert_strict(handshake(server.port, tls=tls).staple, leaf, tmp_path)
    assert responder.count(leaf) == 1
    seen(SServer)


@pytest.mark.parametrize("tls", VERSIONS)
def test_a_name_with_a_context_of_its_own_is_stapled(s_server, issue, tls, tmp_path):
    one, two = issue("one.test"), issue("two.test")
    server = s_server(
        one,
        *("-servername", "two.test"),
        *("-cert2", two.certificate_file, "-key2", two.key_file),
    )
    assert_strict(handshake(server.port, "two.test", tls=tls).staple, two, tmp_path)
    assert_strict(handshake(server.port, "one.test", tls=tls).staple, one, tmp_path)


@pytest.mark.parametrize("tls", VERSIONS)
def test_the_certificate_that_was_chosen_is_the_one_that_is_stapled(
    s_server, issue, tls, tmp_path
):
    rsa, ec = issue(kind="rsa"), issue(kind="ec")
    server = s_server(
        rsa,
        *("-dcert", ec.certificate_file, "-dkey", ec.key_file),
        *("-dcert_chain", ec.chain_file),
    )
    assert_strict(handshake(server.port, tls=tls, kind="rsa").staple, rsa, tmp_path)
    assert_strict(handshake(server.port, tls=tls, kind="ec").staple, ec, tmp_path)


def test_a_response_of_its_own_is_left_alone(s_server, issue, tmp_path):
    leaf = issue()
    file = tmp_path / "own.der"
    file.write_bytes(r.good(7200)(leaf).body)
    server = s_server(leaf, "-status_file", file)
    for _ in range(3):
        assert handshake(server.port).staple == file.read_bytes()
