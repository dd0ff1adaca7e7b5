# SPDX-License-Identifier: MIT
"""What a responder may answer: which answers reach clients, and which never do."""

import pytest
import responder as r
from client import assert_strict, handshake
from support import free_port, wait_until

# Short, because these answers never come to anything.
IMPATIENT = {"OCSPRELOAD_STARTUP_WAIT": "300ms", "OCSPRELOAD_TIMEOUT": "700ms"}

BAD = {
    # About the certificate.
    "revoked": r.revoked(validity=2),
    "unknown": r.unknown(validity=2),
    # Times.
    "expired": r.expired(),
    "not yet valid": r.not_yet_valid(),
    "times reversed": r.times_reversed(),
    "too old without nextUpdate": r.good("absent", this_update=-86400),
    # Not ours.
    "wrong serial": r.wrong_serial(),
    # Signatures.
    "bad signature": r.bad_signature(),
    "signed by a stranger": r.signed_by_stranger(),
    "signed by the leaf": r.signed_by_leaf(),
    "delegate without EKU": r.delegated(None),
    "delegate with another EKU": r.delegated("server"),
    "delegate expired": r.delegated(not_after=-10),
    # responseStatus.
    "malformedRequest": r.error("MALFORMED_REQUEST"),
    "internalError": r.error("INTERNAL_ERROR"),
    "tryLater": r.error("TRY_LATER"),
    "sigRequired": r.error("SIG_REQUIRED"),
    "unauthorized": r.error("UNAUTHORIZED"),
    # Bodies.
    "empty": r.empty(),
    "HTML": r.html(),
    "garbage": r.garbage(),
    "DER cut short": r.body_cut(r.good(), 200),
    "trailing byte": r.trailing(r.good()),
    # HTTP.
    "404 with a good body": r.http_status(404, r.good()),
    "500 with a good body": r.http_status(500, r.good()),
    "405 with a good body": r.http_status(405, r.good()),
    "304 that nobody asked for": r.http_status(304, r.good()),
    "503 with Retry-After": r.headers(r.http_status(503, r.good()), ("Retry-After", "1")),
    "429 with Retry-After": r.headers(r.http_status(429, r.good()), ("Retry-After", "soon")),
    "303 with a good body": r.headers(r.http_status(303, r.good()), ("Location", "/")),
    "redirect without a place": r.http_status(302, r.good()),
    "redirect to https": r.redirect("https://127.0.0.1/", 301),
    "redirect to a file": r.redirect("file:///etc/passwd"),
    "redirect to nonsense": r.redirect("http://[::1/", 307),
    "redirect to another question": r.redirect("/elsewhere", 308),
    "no HTTP": r.without_http(r.good()),
    "HTTP cut short": r.truncated(r.good()),
    "endless": r.endless(r.good()),
    "hanging": r.hanging(),
    "hanging up": r.hanging_up(),
    "dripping": r.dripping(r.good()),
}

GOOD = {
    "chunked": r.chunked(r.good()),
    "ended by close": r.close_delimited(r.good()),
    "content type with parameters": r.content_type(
        "application/ocsp-response; charset=binary", r.good()
    ),
    "with caching headers": r.headers(
        r.good(), ("Cache-Control", "public, max-age=60"), ("ETag", '"1"'), ("Age", "5")
    ),
    "not to be cached": r.headers(r.good(), ("Cache-Control", "no-store"), ("Expires", "0")),
    "slow": r.delayed(1, r.good()),
    "by name": r.good(by_hash=False),
    "by a delegate": r.delegated(),
    "by a delegate, by name": r.delegated(by_hash=False),
    "without nextUpdate": r.without_next_update(),
}


@pytest.mark.parametrize("behaviour", BAD.values(), ids=BAD.keys())
def test_a_bad_answer_is_never_stapled_and_a_good_one_after_it_is(
    s_server, issue, responder, behaviour, tmp_path
):
    leaf = issue(behaviour=behaviour)
    server = s_server(leaf, environment=IMPATIENT)
    first = handshake(server.port)
    assert first.serial == leaf.serial and not first.stapled
    wait_until(lambda: server.shim_lines("error", "warning"), what=server.log)
    assert not handshake(server.port).stapled
    responder.answer(leaf, r.good())
    after = wait_until(lambda: handshake(server.port).staple, what=server.log)
    assert_strict(after, leaf, tmp_path)


def test_a_redirect_in_a_circle_is_never_stapled(s_server, issue, responder):
    leaf = issue(behaviour=r.redirect(responder.url))
    server = s_server(leaf, environment=IMPATIENT)
    assert not handshake(server.port).stapled
    wait_until(lambda: server.shim_lines("warning"), what=server.log)
    assert not handshake(server.port).stapled
    # A few hops, not a flood.
    assert len(responder.asked) < 30


@pytest.mark.parametrize("behaviour", GOOD.values(), ids=GOOD.keys())
def test_a_good_answer_is_stapled_in_whatever_form_it_comes(
    s_server, issue, responder, behaviour, tmp_path
):
    leaf = issue(behaviour=behaviour)
    server = s_server(leaf)
    assert_strict(handshake(server.port).staple, leaf, tmp_path)
    assert responder.count(leaf) == 1


def test_one_bad_certificate_does_not_hold_up_another(python_server, issue, tmp_path):
    hangs, answers = issue("one.test", behaviour=r.hanging()), issue("two.test")
    server = python_server(hangs.pem_file, f"two.test={answers.pem_file}")
    assert_strict(handshake(server.port, "two.test").staple, answers, tmp_path)


def test_the_next_responder_of_the_certificate_is_asked_when_one_fails(
    s_server, authority, responder, tmp_path
):
    nobody = f"http://127.0.0.1:{free_port()}/"
    leaf = authority.issue(responder=[nobody, responder.url])
    responder.answer(leaf, r.good())
    server = s_server(leaf)
    assert_strict(handshake(server.port).staple, leaf, tmp_path)


def test_the_request_is_what_rfc_5019_asks_for(s_server, issue, responder):
    leaf = issue()
    server = s_server(leaf)
    assert handshake(server.port).stapled
    (asked,) = responder.asked_for(leaf)
    assert asked.method == "GET"
    assert asked.hash_name == "sha1" and not asked.has_nonce
    assert asked.host == f"127.0.0.1:{responder.port}"
    # One slash, then nothing that a base64 alphabet would have to be escaped for again.
    assert asked.path.startswith("/") and not asked.path.startswith("//")
    assert not set(asked.path[1:]) & set("/+=")


def test_a_request_too_long_for_get_is_posted(s_server, issue, responder):
    path = "a-responder/" + "with-a-long-name/" * 12
    leaf = issue(path=path)
    server = s_server(leaf)
    assert handshake(server.port).stapled
    (asked,) = responder.asked_for(leaf)
    assert asked.method == "POST" and asked.path == f"/{path}"
    assert asked.headers["Content-Type"] == "application/ocsp-request"
    assert int(asked.headers["Content-Length"]) == len(asked.der)


def test_a_responder_known_by_name_is_found(s_server, authority, responder, tmp_path):
    leaf = authority.issue(responder=f"http://localhost:{responder.port}/")
    responder.answer(leaf, r.good())
    server = s_server(leaf)
    assert_strict(handshake(server.port).staple, leaf, tmp_path)
    assert responder.asked_for(leaf)[0].host == f"localhost:{responder.port}"
