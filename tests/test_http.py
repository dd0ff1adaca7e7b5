# SPDX-License-Identifier: MIT
"""
The fetcher as a good citizen of HTTP: redirects, methods, connections, caches, proxies, several
addresses.
"""

import base64
import calendar
import contextlib
import re
import socket
import threading
import time

import pytest
import responder as r
from client import assert_strict, handshake
from conftest import needs_root
from support import free_port, seconds_between, wait_until

IMPATIENT = {"OCSPRELOAD_STARTUP_WAIT": "300ms"}
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
    wait_until(lambda: responder.count(leaf) > 4)
    times = [asked.at for asked in responder.asked_for(leaf)]
    # Four at once, and then the backoff.
    assert all(seconds_between(times[0], at) < 0.4 for at in times[:4])
    assert times[4] - times[3] >= 0.4


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


REFUSALS = {str(status): r.http_status(status, r.html()) for status in (400, 404, 405, 501)}
REFUSALS["malformedRequest"] = r.error("MALFORMED_REQUEST")


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_a_responder_that_refuses_get_is_asked_by_post_from_then_on(
    s_server, issue, responder, refusal, tmp_path
):
    leaf = issue()
    good = r.soon_due()
    responder.answer(
        leaf, by_request(responder, lambda asked: refusal if asked.method == "GET" else good)
    )
    server = s_server(leaf)
    assert_strict(handshake(server.port).staple, leaf, tmp_path)
    wait_until(lambda: responder.count(leaf) >= 3, what=server.log)
    methods = [asked.method for asked in responder.asked_for(leaf)]
    assert methods[:3] == ["GET", "POST", "POST"]


# Connections


def asked_twice(responder, leaf, refusal):
    """GET is refused in some form, and POST, which comes at once, is answered."""
    good = r.good()
    responder.answer(
        leaf, by_request(responder, lambda asked: refusal if asked.method == "GET" else good)
    )


REFUSAL = r.http_status(405, r.html())


@pytest.mark.parametrize(
    "refusal",
    [REFUSAL, r.chunked(REFUSAL), r.http_status(405, r.empty())],
    ids=["length", "chunks and a trailer", "no body"],
)
def test_a_connection_is_used_again(s_server, issue, responder, refusal, tmp_path):
    leaf = issue()
    asked_twice(responder, leaf, refusal)
    server = s_server(leaf)
    assert_strict(handshake(server.port).staple, leaf, tmp_path)
    get, post = responder.asked_for(leaf)
    assert (get.method, post.method) == ("GET", "POST")
    assert get.client == post.client
    assert "Connection" not in get.headers


@pytest.mark.parametrize(
    "refusal",
    [
        r.closing(REFUSAL),
        r.closing_unsaid(REFUSAL),
        r.as_1_0(REFUSAL),
        r.close_delimited(REFUSAL),
        r.http_status(405, r.twice(r.html())),
    ],
    ids=["close", "close unsaid", "HTTP/1.0", "no length", "a response that nobody asked for"],
)
def test_a_connection_is_not_used_again(s_server, issue, responder, refusal, tmp_path):
    leaf = issue()
    asked_twice(responder, leaf, refusal)
    server = s_server(leaf)
    assert_strict(handshake(server.port).staple, leaf, tmp_path)
    get, post = responder.asked_for(leaf)
    assert (get.method, post.method) == ("GET", "POST")
    assert get.client != post.client
    assert not server.shim_lines("warning", "error")


def test_a_connection_that_closes_as_we_write_is_no_failure(
    s_server, issue, responder, tmp_path
):
    leaf = issue()
    used = set()

    def answer(asked):
        if asked.client in used:
            return r.hanging_up()
        used.add(asked.client)
        return REFUSAL if asked.method == "GET" else r.good()

    responder.answer(leaf, by_request(responder, answer))
    server = s_server(leaf)
    assert_strict(handshake(server.port).staple, leaf, tmp_path)
    get, lost, post = responder.asked_for(leaf)
    assert (get.method, lost.method, post.method) == ("GET", "POST", "POST")
    assert get.client == lost.client != post.client
    assert lost.der == post.der
    assert not server.shim_lines("warning", "error")


def test_nothing_newer_is_heard_over_a_kept_connection(s_server, issue, responder):
    leaf = issue()
    newest = r.headers(r.soon_due(24), ("ETag", '"first"'))
    current = [newest]

    def answer(asked):
        there = asked.path.startswith("/there/")
        return current[0] if there else r.redirect("/there" + asked.path)

    responder.answer(leaf, by_request(responder, answer))
    server = s_server(leaf)
    first = handshake(server.port).staple
    assert first
    current[0] = r.http_status(304, r.empty())
    wait_until(lambda: "has nothing newer yet" in server.log(), what=server.log)
    led, unchanged = responder.asked_for(leaf)[2:4]
    assert unchanged.headers["If-None-Match"] == '"first"'
    assert led.client == unchanged.client
    assert not server.shim_lines("warning", "error")


@pytest.fixture
def staple_many(python_server, issue):
    """
    Has a server with so many certificates staple each; returns it and them. behaviour is the
    responder's; loaded is called when the server has loaded all.
    """

    def staple(count, behaviour=None, loaded=lambda: None):
        names = [f"n{number}.test" for number in range(count)]
        leaves = {name: issue(name, behaviour=behaviour) for name in names}
        server = python_server(
            next(iter(leaves.values())).pem_file,
            *(f"{name}={leaf.pem_file}" for name, leaf in leaves.items()),
            environment={"OCSPRELOAD_STARTUP_WAIT": "60s", "OCSPRELOAD_TIMEOUT": "60s"},
        )
        loaded()
        for name, leaf in leaves.items():
            result = handshake(server.port, name)
            assert result.serial == leaf.serial and result.stapled
        return server, leaves

    return staple


def test_many_certificates_share_a_few_connections(staple_many, responder):
    # Nothing is answered before all are there to be asked for: a server that loads more slowly than
    # it fetches has nothing more to ask when an answer comes.
    are_loaded = threading.Event()

    def answer(leaf):
        are_loaded.wait(60)
        return r.good()(leaf)

    _, leaves = staple_many(200, answer, are_loaded.set)
    assert sorted(asked.serial for asked in responder.asked) == sorted(
        leaf.serial for leaf in leaves.values()
    )
    # At most 48 at a time, and each for two seconds: if the machine stops for as long, all are new.
    assert responder.connections <= 150
    # The one that hangs up is not the responder, whose patience is longer.
    wait_until(lambda: responder.open == 0, 5)


def test_a_responder_that_serves_one_connection_at_a_time_is_not_held_by_one(
    staple_many, responder
):
    responder.one_at_a_time = True
    server, leaves = staple_many(80)
    assert len(responder.asked) == len(leaves)
    assert not server.shim_lines("warning", "error")


def test_a_responder_is_let_go_while_another_is_still_being_asked(
    python_server, authority, issue, responder, elsewhere
):
    there = authority.issue("two.test", responder=elsewhere.url)
    elsewhere.answer(there, r.good())
    here = issue("one.test", behaviour=r.hanging())
    server = python_server(
        here.pem_file,
        f"two.test={there.pem_file}",
        environment={"OCSPRELOAD_TIMEOUT": "60s"},
    )
    assert handshake(server.port, "two.test").stapled
    wait_until(lambda: elsewhere.open == 0, 5)
    assert responder.open == 1


@needs_root
def test_names_do_not_share_a_connection(
    s_server, authority, responder, hosts, tmp_path
):
    leaf = authority.issue(responder=f"http://one.test:{responder.port}/")
    two = f"two.test:{responder.port}"

    def answer(asked):
        return r.good() if asked.host == two else r.redirect(f"http://{two}{asked.path}")

    responder.answer(leaf, by_request(responder, answer))
    server = s_server(leaf, wrapper=hosts("127.0.0.1 one.test two.test\n"))
    assert_strict(handshake(server.port).staple, leaf, tmp_path)
    first, second = responder.asked_for(leaf)
    assert first.host == f"one.test:{responder.port}" and second.host == two
    assert first.client != second.client


def test_names_behind_a_proxy_do(s_server, authority, responder, tmp_path):
    leaf = authority.issue(responder="http://one.invalid/")

    def answer(asked):
        there = asked.host == "two.invalid"
        return r.good() if there else r.redirect(asked.path.replace("one.", "two."))

    responder.answer(leaf, by_request(responder, answer))
    server = s_server(leaf, environment={"OCSPRELOAD_HTTP_PROXY": responder.url})
    assert_strict(handshake(server.port).staple, leaf, tmp_path)
    first, second = responder.asked_for(leaf)
    assert first.host == "one.invalid" and second.host == "two.invalid"
    assert second.path == first.path.replace("one.", "two.")
    assert first.client == second.client


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
    # Two, or more where that took longer than it wants to be left alone.
    times = [asked.at for asked in responder.asked_for(leaf)]
    assert len(times) >= 2
    assert all(later - earlier >= 3.9 for earlier, later in zip(times, times[1:]))


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


def test_a_proxy_needs_no_scheme(s_server, authority, responder, tmp_path):
    leaf = authority.issue(responder="http://ocsp.invalid/")
    responder.answer(leaf, r.good())
    server = s_server(leaf, environment={"http_proxy": f"127.0.0.1:{responder.port}"})
    assert_strict(handshake(server.port).staple, leaf, tmp_path)
    (asked,) = responder.asked_for(leaf)
    assert asked.host == "ocsp.invalid"
    assert not server.shim_lines("warning", "error")


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
        listens = time.monotonic()
        assert_strict(handshake(server.port).staple, leaf, tmp_path)
    # It is asked for while the server starts, which may take its time.
    at = responder.asked_for(leaf)[0].at
    assert at - began >= 0.25 and seconds_between(listens, at) < 4


@needs_root
def test_an_address_that_refuses_costs_nothing(s_server, authority, responder, hosts, tmp_path):
    leaf = authority.issue(responder=f"http://both.test:{responder.port}/")
    responder.answer(leaf, r.good())
    server = s_server(leaf, wrapper=hosts("127.0.0.2 both.test\n127.0.0.1 both.test\n"))
    assert_strict(handshake(server.port).staple, leaf, tmp_path)


@pytest.fixture
def beside(responder):
    """Another responder, at another address and the same port."""
    other = r.Responder(address="127.0.0.2")
    other.port = responder.port
    with other:
        yield other


BREAKS = {
    "that hangs up": r.hanging_up(),
    "that is no HTTP server": r.without_http(r.bytes_of(b"220 mail.test ESMTP\r\n")),
}


@needs_root
@pytest.mark.parametrize("behaviour", BREAKS.values(), ids=BREAKS)
def test_an_address_without_an_answer_is_passed_over(
    s_server, authority, responder, beside, hosts, tmp_path, behaviour
):
    leaf = authority.issue(responder=f"http://both.test:{responder.port}/")
    beside.answer(leaf, behaviour)
    responder.answer(leaf, r.good())
    server = s_server(
        leaf,
        wrapper=hosts("127.0.0.2 both.test\n127.0.0.1 both.test\n"),
        environment={"OCSPRELOAD_TIMEOUT": "60s"},
    )
    staple = wait_until(lambda: handshake(server.port).staple, what=server.log)
    assert_strict(staple, leaf, tmp_path)
    assert beside.count(leaf) == responder.count(leaf) == 1


@needs_root
def test_an_address_that_never_answers_is_the_last_the_next_time(
    s_server, authority, responder, beside, hosts, tmp_path
):
    leaf = authority.issue(responder=f"http://both.test:{responder.port}/")
    beside.answer(leaf, r.hanging())
    responder.answer(leaf, r.good())
    server = s_server(
        leaf,
        wrapper=hosts("127.0.0.2 both.test\n127.0.0.1 both.test\n"),
        environment={**IMPATIENT, "OCSPRELOAD_TIMEOUT": "3s"},
    )
    staple = wait_until(lambda: handshake(server.port).staple, what=server.log)
    assert_strict(staple, leaf, tmp_path)
    # On a machine so slow that this one is late, too, they take turns.
    silent, asked = beside.asked_for(leaf), responder.asked_for(leaf)
    assert silent[0].at < asked[0].at
    assert all(asked[0].at < another.at for another in silent[1:])
