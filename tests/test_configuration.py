# SPDX-License-Identifier: MIT
"""The environment variables, and /etc/ocspreload.conf under them."""

import shutil

import pytest
import responder as r
from client import assert_strict, handshake
from conftest import needs_root
from support import wait_until

BAD_VALUES = [
    ("OCSPRELOAD", "maybe"),
    ("OCSPRELOAD_RESPONDER", "ftp://127.0.0.1/"),
    ("OCSPRELOAD_TRUSTED", "relative.pem"),
    ("OCSPRELOAD_RESPONSES", "ready/"),
    ("OCSPRELOAD_FETCH", "sometimes"),
    ("OCSPRELOAD_HTTP_PROXY", "socks5://127.0.0.1"),
    ("OCSPRELOAD_TIMEOUT", "soon"),
    ("OCSPRELOAD_TIMEOUT", "0"),
    ("OCSPRELOAD_TIMEOUT", "-1s"),
    ("OCSPRELOAD_STARTUP_WAIT", "3 fortnights"),
    ("OCSPRELOAD_LOG", "somewhere"),
    ("OCSPRELOAD_LOG_LEVEL", "loud"),
]


@pytest.mark.parametrize("name, value", BAD_VALUES, ids=map("=".join, BAD_VALUES))
def test_a_bad_value_is_reported_in_one_line_and_the_host_goes_on(
    nginx, issue, name, value, tmp_path
):
    leaf = issue()
    server = nginx(leaf, environment={"OCSPRELOAD_LOG_LEVEL": "warning", name: value})
    assert_strict(handshake(server.port).staple, leaf, tmp_path)
    (line,) = server.shim_lines()
    assert name in line and value in line and "; ignored (the default is " in line


def test_a_variable_that_does_not_exist_is_reported(s_server, issue):
    server = s_server(issue(), environment={"OCSPRELOAD_TIMOUT": "1s"})
    assert handshake(server.port).stapled
    (line,) = server.shim_lines("warning")
    assert "OCSPRELOAD_TIMOUT" in line


def test_an_empty_value_is_as_good_as_none(s_server, issue):
    names = {name for name, _ in BAD_VALUES}
    server = s_server(issue(), environment={name: "" for name in names})
    assert handshake(server.port).stapled
    assert not server.shim_lines()


def test_nothing_is_said_at_the_default_level_when_all_is_well(nginx, issue):
    server = nginx(issue(), environment={"OCSPRELOAD_LOG_LEVEL": None})
    assert handshake(server.port).stapled
    assert not server.shim_lines()


def test_info_says_what_was_fetched_and_what_comes_next(nginx, issue, responder):
    leaf = issue("www.example.test")
    server = nginx(leaf, environment={"OCSPRELOAD_LOG_LEVEL": "info"})
    assert handshake(server.port).stapled
    (line,) = wait_until(lambda: server.shim_lines("info"))
    assert "www.example.test" in line and f"{leaf.serial:X}" in line.upper()
    assert responder.url in line and "until" in line and "refresh" in line


def test_a_responder_may_be_given_in_place_of_the_certificates(
    s_server, authority, issue, responder, tmp_path
):
    bare = authority.issue()
    responder.answer(bare, r.good())
    elsewhere = issue(responder="http://127.0.0.1:9/")
    for leaf in (bare, elsewhere):
        server = s_server(leaf, environment={"OCSPRELOAD_RESPONDER": responder.url})
        assert_strict(handshake(server.port).staple, leaf, tmp_path)


def test_an_issuer_that_the_server_does_not_send_is_trusted_from_a_file(
    python_server, issue, tmp_path
):
    leaf = issue()
    alone = tmp_path / "alone.pem"
    alone.write_bytes(leaf.key_file.read_bytes() + leaf.certificate_file.read_bytes())
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(leaf.authority.root.file.read_bytes() + leaf.authority.file.read_bytes())
    server = python_server(alone, environment={"OCSPRELOAD_TRUSTED": str(trusted)})
    assert_strict(handshake(server.port).staple, leaf, tmp_path)


def test_without_an_issuer_nothing_is_asked_and_nothing_stapled(
    python_server, issue, responder, tmp_path
):
    leaf = issue()
    alone = tmp_path / "alone.pem"
    alone.write_bytes(leaf.key_file.read_bytes() + leaf.certificate_file.read_bytes())
    server = python_server(alone, environment={"OCSPRELOAD_STARTUP_WAIT": "300ms"})
    assert not handshake(server.port).stapled
    wait_until(lambda: any("issuer" in line for line in server.shim_lines()), what=server.log)
    assert responder.count(leaf) == 0


def test_a_proxy_is_asked_for_what_it_alone_can_reach(s_server, authority, responder, tmp_path):
    leaf = authority.issue(responder="http://ocsp.invalid/status")
    responder.answer(leaf, r.good())
    server = s_server(leaf, environment={"OCSPRELOAD_HTTP_PROXY": responder.url})
    assert_strict(handshake(server.port).staple, leaf, tmp_path)
    (asked,) = responder.asked_for(leaf)
    assert asked.path.startswith("http://ocsp.invalid/status/")
    assert asked.host == "ocsp.invalid"


def test_http_proxy_is_honoured_and_so_is_no_proxy(s_server, authority, issue, responder):
    proxied = authority.issue(responder="http://ocsp.invalid/")
    responder.answer(proxied, r.good())
    direct = issue()
    for leaf in (proxied, direct):
        environment = {"http_proxy": responder.url, "no_proxy": "127.0.0.1,example.test"}
        server = s_server(leaf, environment=environment)
        assert handshake(server.port).stapled
    assert responder.asked_for(proxied)[0].path.startswith("http://ocsp.invalid/")
    assert responder.asked_for(direct)[0].path.startswith("/")


def test_nothing_is_fetched_where_fetching_is_off(nginx, issue, responder):
    leaf = issue()
    server = nginx(leaf, environment={"OCSPRELOAD_FETCH": "off", "OCSPRELOAD_STARTUP_WAIT": "1m"})
    result = handshake(server.port)
    assert not result.stapled and result.seconds < 20
    assert responder.count(leaf) == 0
    assert "ocspreload" not in server.threads()


def test_no_handshake_waits_where_the_startup_wait_is_zero(nginx, issue):
    leaf = issue(behaviour=r.delayed(6, r.good()))
    server = nginx(leaf, environment={"OCSPRELOAD_STARTUP_WAIT": "0"})
    first = handshake(server.port)
    assert not first.stapled and first.seconds < 1.5
    wait_until(lambda: handshake(server.port).stapled)


def test_an_exchange_ends_at_its_timeout(s_server, issue, responder):
    leaf = issue(behaviour=r.hanging())
    server = s_server(leaf, environment={"OCSPRELOAD_TIMEOUT": "300ms"})
    assert not handshake(server.port).stapled
    wait_until(lambda: server.shim_lines("warning"), 5, what=server.log)
    wait_until(lambda: responder.count(leaf) >= 2, what=server.log)


def test_the_log_can_be_a_file(nginx, issue, tmp_path):
    log = tmp_path / "shim.log"
    server = nginx(issue(), environment={"OCSPRELOAD_LOG": str(log)})
    assert handshake(server.port).stapled
    wait_until(lambda: "stapling" in log.read_text())
    assert not server.shim_lines()


# /etc/ocspreload.conf. The machine's own is not touched: the host sees another /etc.


@pytest.fixture
def configured(tmp_path):
    """A wrapper for a server's command that shows it an /etc/ocspreload.conf of this text."""

    def make(text, mode=0o644):
        etc = tmp_path / "etc"
        etc.mkdir()
        for name in ("ld.so.cache", "passwd", "group", "nsswitch.conf", "hosts", "localtime"):
            shutil.copy(f"/etc/{name}", etc / name)
        shutil.copytree("/etc/ssl", etc / "ssl", ignore=shutil.ignore_patterns("private", "certs"))
        conf = etc / "ocspreload.conf"
        conf.write_text(text)
        conf.chmod(mode)
        return ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc && exec "$@"', str(etc)]

    return make


@needs_root
def test_the_file_speaks_where_the_environment_does_not(
    s_server, authority, responder, configured, tmp_path
):
    leaf = authority.issue()
    responder.answer(leaf, r.good())
    text = f'# ours\n\nOCSPRELOAD_RESPONDER="{responder.url}"\nOCSPRELOAD_LOG_LEVEL=error\n'
    server = s_server(leaf, wrapper=configured(text))
    assert_strict(handshake(server.port).staple, leaf, tmp_path)
    # The tests' environment says debug.
    assert server.shim_lines("info", "debug")


@needs_root
def test_the_environment_overrules_the_file(s_server, issue, responder, configured):
    leaf = issue()
    server = s_server(
        leaf, wrapper=configured("OCSPRELOAD=off\n"), environment={"OCSPRELOAD": "on"}
    )
    assert handshake(server.port).stapled


@needs_root
def test_the_file_can_switch_it_all_off(s_server, issue, responder, configured):
    leaf = issue()
    server = s_server(leaf, wrapper=configured("OCSPRELOAD=off\n"))
    assert not handshake(server.port).stapled
    assert responder.count(leaf) == 0 and not server.shim_lines()


@needs_root
def test_a_file_that_others_may_write_is_ignored(s_server, issue, configured):
    server = s_server(issue(), wrapper=configured("OCSPRELOAD=off\n", mode=0o666))
    assert handshake(server.port).stapled
    assert any("/etc/ocspreload.conf" in line for line in server.shim_lines("warning"))


@needs_root
def test_a_bad_line_in_the_file_is_reported_and_the_rest_holds(
    s_server, authority, responder, configured
):
    leaf = authority.issue()
    responder.answer(leaf, r.good())
    text = f"what is this\nOCSPRELOAD_TIMEOUT=soon\nOCSPRELOAD_RESPONDER={responder.url}\n"
    server = s_server(leaf, wrapper=configured(text))
    assert handshake(server.port).stapled
    lines = server.shim_lines("warning")
    assert len(lines) == 2 and all("/etc/ocspreload.conf" in line for line in lines)
    assert "what is this" in lines[0] and "soon" in lines[1]
