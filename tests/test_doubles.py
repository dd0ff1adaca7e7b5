# SPDX-License-Identifier: MIT
"""The tests' own actors: what they prove is worth no more than these."""

import subprocess

import pytest
import responder as r
from support import wait_until
from client import assert_strict, handshake, s_client

UNACCEPTABLE = {
    "revoked": r.revoked(),
    "unknown": r.unknown(),
    "expired": r.expired(),
    "not yet valid": r.not_yet_valid(),
    "times reversed": r.times_reversed(),
    "wrong serial": r.wrong_serial(),
    "bad signature": r.bad_signature(),
    "signed by a stranger": r.signed_by_stranger(),
    "signed by the leaf": r.signed_by_leaf(),
    "delegate without EKU": r.delegated(None),
    "delegate with another EKU": r.delegated("server"),
    "delegate expired": r.delegated(not_after=-10),
    "try later": r.error("TRY_LATER"),
    "empty": r.empty(),
    "garbage": r.garbage(),
    "cut": r.body_cut(r.good(), 100),
    "trailing byte": r.trailing(r.good()),
}


def ask_with_openssl(leaf, url, file):
    return subprocess.run(
        ["openssl", "ocsp", "-url", url, "-no_nonce", "-respout", str(file)]
        + ["-issuer", str(leaf.authority.file), "-cert", str(leaf.certificate_file)]
        + ["-CAfile", str(leaf.authority.file), "-partial_chain"],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )


@pytest.mark.parametrize("behaviour", UNACCEPTABLE.values(), ids=UNACCEPTABLE.keys())
def test_the_judge_refuses(issue, behaviour, tmp_path):
    leaf = issue()
    with pytest.raises((AssertionError, ValueError)):
        assert_strict(behaviour(leaf).body, leaf, tmp_path)


@pytest.mark.parametrize("by_hash", [True, False], ids=["key hash", "name"])
@pytest.mark.parametrize("make", [r.good, r.delegated], ids=["issuer", "delegate"])
def test_the_double_convinces_openssl_and_the_judge(issue, responder, make, by_hash, tmp_path):
    leaf = issue(behaviour=make(by_hash=by_hash))
    result = ask_with_openssl(leaf, responder.url, tmp_path / "response")
    assert f"{leaf.certificate_file}: good" in result.stdout, result.stderr
    assert_strict((tmp_path / "response").read_bytes(), leaf, tmp_path)
    (asked,) = responder.asked_for(leaf)
    assert asked.method == "POST" and asked.hash_name == "sha1" and not asked.has_nonce


def test_the_double_is_down_between_stop_and_start(issue, responder, tmp_path):
    leaf = issue()
    responder.stop()
    assert "onnect" in ask_with_openssl(leaf, responder.url, tmp_path / "response").stderr
    responder.start()
    assert "good" in ask_with_openssl(leaf, responder.url, tmp_path / "response").stdout


def test_the_real_responder_knows_good_from_revoked(openssl_responder, authority, tmp_path):
    good, revoked = authority.issue(), authority.issue()
    openssl_responder.add(good)
    openssl_responder.add(revoked, revoked=True)
    openssl_responder.start()
    for leaf, status in ((good, "good"), (revoked, "revoked")):
        result = ask_with_openssl(leaf, openssl_responder.url, tmp_path / status)
        assert f"{leaf.certificate_file}: {status}" in result.stdout, result.stderr
    wait_until(lambda: openssl_responder.count == 2, what="it has logged both answers")
    assert_strict((tmp_path / "good").read_bytes(), good, tmp_path)


def test_without_the_shim_there_is_no_staple(nginx, s_server, python_server, issue):
    leaf = issue()
    for server in (
        nginx(leaf, shim=False),
        s_server(leaf, shim=False),
        python_server(leaf.pem_file, shim=False),
    ):
        result = handshake(server.port)
        assert not result.stapled and result.serial == leaf.serial


def test_the_client_sees_a_staple_that_nginx_took_from_a_file(nginx, issue, tmp_path):
    leaf = issue()
    file = tmp_path / "own.der"
    file.write_bytes(r.good()(leaf).body)
    server = nginx(leaf, shim=False, extra=f"ssl_stapling on; ssl_stapling_file {file};")
    assert handshake(server.port).staple == file.read_bytes()
    assert s_client(server.port).good_serial == leaf.serial
