# SPDX-License-Identifier: MIT
"""The fetcher as a good citizen of HTTP: redirects, methods, caches, proxies, several addresses."""

import base64
import calendar
import contextlib
import re
import socket
import time

import pytest
import responder as r
from client import assert_strict, handshake
from conftest import needs_root
from support import free_port, wait_until

IMPATIENT = {"OCSPRELOAD_STARTUP_WAIT": "300ms", "OCSPRELOAD_TIMEOUT": "700ms"}
REDIRECTS = [301, 302, 307, 308]
# Longer than a GET may be.
LONG_PATH = "a-responder/" + "with-a-long-name/" * 12


def by_request(responder, answer):
    """A behaviour that sees what it is asked: answer takes an Asked and returns a behaviour."""
    return lambda leaf: answer(responder.asked_for(leaf)[-1])(leaf)


def warnings(server):
    return wait_until(lambda: server.shim_lines("warning"), what=server.log)


# Redirects


@pytest.fixture
def elsewhere():
    """Another responder, for redirects to lead to."""
    with r.Responder() as running:
        yield running


@pytest.mark.parametrize("status", REDIRECTS)
def test_a_redirect_is_followed(s_server, issue, responder, elsewhere, status, tmp_path):
    leaf = issue()
    there = elsewhere.url[:-1]
    responder.answer(
        leaf, by_request(responder, lambda asked: r.redirect(there + asked.path, status))
    )
    elsewhere.answer(leaf, r.good())
    server = s_server(leaf)
    assert_strict(handshake(server.port).staple, leaf, tmp_path)
    (first,), (second,) = responder.asked_for(leaf), elsewhere.asked_for(leaf)
    assert second.method == "GET" and second.path == first.path
    assert second.host == f"127.0.0.1:{elsewhere.port}"


@pytest.mark.parametrize("status", REDIRECTS)
def test_a_redirected_post_stays_a_post(s_server, issue, responder, elsewhere, status, tmp_path):
    leaf = issue(path=LONG_PATH, behaviour=r.redirect(elsewhere.url + "there", status))
    elsewhere.answer(leaf, r.good())
    server = s_server(leaf)
    assert_strict(handshake(server.port).staple, leaf, tmp_path)
    (first,), (second,) = responder.asked_for(leaf), elsewhere.asked_for(leaf)
    assert first.method == second.method == "POST"
    assert second.path == "/there" and second.der == first.der


def test_a_circle_of_redirects_is_left_after_the_third(s_server, issue, responder):
    leaf = issue()
    responder.answer(leaf, by_request(responder, lambda asked: r.redirect(asked.path)))
    server = s_server(leaf, environment=IMPATIENT)
    assert not handshake(server.port).stapled
    assert "is one too many" in warnings(server)[0]
    times = [asked.at for asked in responder.asked_for(leaf)]
    # Four at once, and then the backoff.
    assert all(at - times[0] < 0.4 for at in times[:4])
    assert all(at - times[0] >= 0.4 for at in times[4:])


@pytest.mark.parametrize(
    ("location", "why"),
    [("https://127.0.0.1/", "https is not possible"), ("file:///etc/passwd", "not an http URL")],
)
def test_a_redirect_that_is_not_to_http_is_refused_in_clear_words(
    s_server, issue, location, why
):
    server = s_server(issue(behaviour=r.redirect(location)), environment=IMPATIENT)
    assert not handshake(server.port).stapled
    line = warnings(server)[0]
    assert location in line and why in line


def test_the_next_responder_is_asked_after_a_redirect_to_nowhere(
    s_server, authority, responder, elsewhere, tmp_path
):
    leaf = authority.issue(responder=[responder.url, elsewhere.url])
    responder.answer(leaf, r.redirect("https://127.0.0.1/"))
    elsewhere.answer(leaf, r.good())
    server = s_server(leaf)
    assert_strict(handshake(server.port).staple, leaf, tmp_path)


def test_a_public_responder_cannot_lead_into_this_machine(
    s_server, authority, responder, elsewhere
):
    """The proxy stands for the world: it alone knows ocsp.invalid, and answers in its name."""
    leaf = authority.issue(responder="http://ocsp.invalid/")
    responder.answer(leaf, r.redirect(elsewhere.url))
    environment = {**IMPATIENT, "OCSPRELOAD_HTTP_PROXY": responder.url, "no_proxy": "127.0.0.1"}
    server = s_server(leaf, environment=environment)
    assert not handshake(server.port).stapled
    assert "loopback, private or link-local" in warnings(server)[0]
    assert not elsewhere.asked


@needs_root
def test_a_public_responder_cannot_lead_into_this_machine_by_a_name_either(
    s_server, authority, responder, elsewhere, hosts
):
    leaf = authority.issue(responder="http://ocsp.invalid/")
    responder.answer(leaf, r.redirect(f"http://inside.test:{elsewhere.port}/"))
    environment = {**IMPATIENT, "OCSPRELOAD_HTTP_PROXY": responder.url, "no_proxy": "test"}
    server = s_server(
        leaf, wrapper=hosts("127.0.0.1 inside.test\n"), environment=environment
    )
    assert not handshake(server.port).stapled
    assert "where a redirect must not lead" in warnings(server)[0]
    assert not elsewhere.asked


# GET and POST


@pytest.mark.parametrize("status", [400, 404, 405, 501])
def test_a_responder_that_refuses_get_is_asked_by_post_from_then_on(
    s_server, issue, responder, status, tmp_path
):
    leaf = issue()
    refusal, good = r.http_status(status, r.html()), r.good(validity=3)
    responder.answer(
        leaf, by_request(responder, lambda asked: refusal if asked.method == "GET" else good)
    )
    server = s_server(leaf)
    assert_strict(handshake(server.port).staple, leaf, tmp_path)
    wait_until(lambda: responder.count(leaf) >= 3, what=server.log)
    methods = [asked.method for asked in responder.asked_for(leaf)]
    assert methods[:3] == ["GET", "POST", "POST"]


# Caches


def seconds_to_refresh(server):
    """From the line that says so to the time it gives."""
    (line,) = wait_until(
        lambda: [line for line in server.shim_lines("info") if "refreshing at" in line],
        what=server.log,
    )
    at = re.search(r"refreshing at (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)Z", line)[1]
    return calendar.timegm(time.strptime(at, "%Y-%m-%dT%H:%M:%S")) - time.time()


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        # The middle of its life is in 2000 s, the jitter a tenth of it.
        ((), 1990, 3000),
        ((("Cache-Control", "no-store, max-age=3300"),), 1990, 3000),
        ((("Cache-Control", "max-age=3300"), ("Age", "3300")), 1990, 3000),
        # While the cache only repeats itself; jitter of a tenth of what is left then.
        ((("Cache-Control", "max-age=3300"),), 3290, 3500),
        ((("Cache-Control", "max-age=99, s-maxage=3400"), ("Age", "100")), 3290, 3500),
        # But never past the half of what is left.
        ((("Cache-Control", "max-age=6000"),), 3490, 3500),
    ],
)
def test_a_cache_is_not_asked_while_it_only_repeats_itself(
    s_server, issue, headers, least, most
):
    answer = r.good(validity=7000, this_update=-3000)
    server = s_server(issue(behaviour=r.headers(answer, *headers)))
    assert handshake(server.port).stapled
    assert least <= seconds_to_refresh(server) <= most


def test_a_responder_is_left_alone_for_as_long_as_it_asks(s_server, issue, responder, tmp_path):
    busy = r.headers(r.http_status(503, r.html()), ("Retry-After", "4"))
    leaf = issue(behaviour=busy)
    server = s_server(leaf, environment=IMPATIENT)
    assert not handshake(server.port).stapled
    assert "trying again in 4.0 s" in warnings(server)[0]
    responder.answer(leaf, r.good())
    assert_strict(wait_until(lambda: handshake(server.port).staple), leaf, tmp_path)
    first, second = responder.asked_for(leaf)
    assert second.at - first.at >= 3.9


# Proxies


def test_a_proxy_gets_its_password_and_nobody_else_does(
    s_server, authority, issue, responder, elsewhere
):
    proxy = f"http://name:s%40cret@127.0.0.1:{responder.port}/"
    proxied = authority.issue(responder="http://ocsp.invalid/")
    direct = authority.issue(responder=elsewhere.url)
    responder.answer(proxied, r.good())
    elsewhere.answer(direct, r.good())
    for leaf in (proxied, direct):
        environment = {"OCSPRELOAD_HTTP_PROXY": proxy, "no_proxy": "127.0.0.0/8"}
        server = s_server(leaf, environment=environment)
        assert handshake(server.port).stapled
        assert "cret" not in server.log()
    (asked,) = responder.asked_for(proxied)
    assert asked.headers["Proxy-Authorization"] == (
        "Basic " + base64.b64encode(b"name:s@cret").decode()
    )
    (asked,) = elsewhere.asked_for(direct)
    assert "Proxy-Authorization" not in asked.headers


@pytest.mark.parametrize(
    ("credentials", "status", "words"),
    [
        ("", 407, "it wants a user name and a password"),
        ("name:secret@", 407, "it does not accept our user name and password"),
        ("", 403, "it, or the responder behind it, forbids the request"),
        ("", 502, "it has no answer of the responder"),
    ],
)
def test_a_proxy_that_refuses_is_named(
    s_server, authority, responder, credentials, status, words
):
    leaf = authority.issue(responder="http://ocsp.invalid/")
    responder.answer(leaf, r.http_status(status, r.html()))
    proxy = f"http://{credentials}127.0.0.1:{responder.port}/"
    server = s_server(leaf, environment={**IMPATIENT, "OCSPRELOAD_HTTP_PROXY": proxy})
    assert not handshake(server.port).stapled
    line = warnings(server)[0]
    assert f"the proxy 127.0.0.1:{responder.port}: {words}" in line and f"status {status}" in line
    assert "secret" not in server.log()


def test_a_proxy_that_is_down_is_not_gone_round(s_server, issue, responder):
    leaf = issue()
    port = free_port()
    environment = {**IMPATIENT, "OCSPRELOAD_HTTP_PROXY": f"http://127.0.0.1:{port}/"}
    server = s_server(leaf, environment=environment)
    assert not handshake(server.port).stapled
    assert f"the proxy 127.0.0.1:{port}: connection refused" in warnings(server)[0]
    assert not responder.asked


@pytest.mark.parametrize("no_proxy", ["127.0.0.0/8", "127.0.0.1:{port}", "::1 , 127.0.0.1"])
def test_no_proxy_knows_networks_ports_and_addresses(s_server, issue, responder, no_proxy):
    environment = {
        "http_proxy": f"http://127.0.0.1:{free_port()}/",
        "no_proxy": no_proxy.format(port=responder.port),
    }
    server = s_server(issue(), environment=environment)
    assert handshake(server.port).stapled


def test_a_password_in_a_proxy_that_cannot_be_used_is_not_shown(s_server, issue):
    environment = {"OCSPRELOAD_HTTP_PROXY": "https://name:secret@127.0.0.1/"}
    server = s_server(issue(), environment=environment)
    assert handshake(server.port).stapled
    assert "OCSPRELOAD_HTTP_PROXY" in warnings(server)[0]
    assert "secret" not in server.log()


# Several addresses


@pytest.fixture
def hosts(tmp_path):
    """A wrapper for a server's command that shows it an /etc/hosts with these lines first."""

    def make(lines):
        path = tmp_path / "hosts"
        path.write_text(lines + "127.0.0.1 localhost\n")
        command = 'mount --bind "$0" /etc/hosts && exec "$@"'
        return ["unshare", "-m", "sh", "-c", command, str(path)]

    return make


@contextlib.contextmanager
def silence(address, port):
    """A port where connections are neither accepted nor refused: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(64):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.2)
            try:
                filler.connect((address, port))
            except TimeoutError:
                yield
                return
        pytest.fail("64 connections did not fill a queue of none")


@needs_root
def test_an_address_that_is_silent_costs_a_quarter_of_a_second(
    s_server, authority, responder, hosts, tmp_path
):
    leaf = authority.issue(responder=f"http://both.test:{responder.port}/")
    responder.answer(leaf, r.good())
    with silence("127.0.0.2", responder.port):
        began = time.monotonic()
        server = s_server(leaf, wrapper=hosts("127.0.0.2 both.test\n127.0.0.1 both.test\n"))
        assert_strict(handshake(server.port).staple, leaf, tmp_path)
    assert 0.25 <= responder.asked_for(leaf)[0].at - began < 4


@needs_root
def test_an_address_that_refuses_costs_nothing(s_server, authority, responder, hosts, tmp_path):
    leaf = authority.issue(responder=f"http://both.test:{responder.port}/")
    responder.answer(leaf, r.good())
    server = s_server(leaf, wrapper=hosts("127.0.0.2 both.test\n127.0.0.1 both.test\n"))
    assert_strict(handshake(server.port).staple, leaf, tmp_path)
