# SPDX-License-Identifier: MIT
"""Names of responders: how they are looked up, and where nothing says how."""

import daemons
import pytest
import responder as r
from client import assert_strict
from conftest import needs_root, plain_build_only
from daemons_long import with_etc
from name_server import NameServer
from support import wait_until
from test_hazards import REST, SHORT, run_host

NAME = "responder.test"
ALONE = "127.0.0.1 localhost\n"

pytestmark = needs_root


@pytest.fixture
def name_server():
    with NameServer({NAME: "127.0.0.1"}) as running:
        yield running


@pytest.fixture
def leaf(authority, responder):
    """Its responder has a name, and its responses must be renewed all the time."""
    named = authority.issue("localhost", responder=f"http://{NAME}:{responder.port}/")
    responder.answer(named, r.soon_due(SHORT))
    return named


@pytest.fixture
def jail(tmp_path):
    directory = tmp_path / "jail"
    (directory / "etc").mkdir(parents=True)
    return directory


def etc(tmp_path, name_server, hosts=ALONE):
    return with_etc(
        tmp_path, {"resolv.conf": f"nameserver {name_server.address}\n", "hosts": hosts}
    )


@pytest.mark.parametrize("who", ["parent", "child"])
def test_a_chrooted_host_asks_the_name_servers_that_it_knew(
    shim, leaf, responder, name_server, jail, who, tmp_path
):
    # By then, what was there before the chroot is over.
    ran = run_host(shim, leaf, "jail", who, jail, REST, wrapper=etc(tmp_path, name_server))

    assert ran.stdout == "1 before, 1 after\n", ran.stderr
    assert responder.count(leaf) >= 3
    assert name_server.count(NAME) >= 3


def test_a_chrooted_host_knows_the_names_of_etc_hosts(
    shim, leaf, responder, name_server, jail, tmp_path
):
    hosts = f"{ALONE}# 127.0.0.9 {NAME}\n127.0.0.1\tother.test {NAME.upper()} # ours\n"

    ran = run_host(
        shim, leaf, "jail", "parent", jail, REST, wrapper=etc(tmp_path, name_server, hosts)
    )

    assert ran.stdout == "1 before, 1 after\n", ran.stderr
    assert responder.count(leaf) >= 3
    assert name_server.asked == []


def test_what_a_jail_has_in_its_etc_counts_there(
    shim, leaf, responder, name_server, jail, tmp_path
):
    with NameServer({NAME: "127.0.0.1"}) as inside:
        (jail / "etc" / "resolv.conf").write_text(f"nameserver {inside.address}\n")
        ran = run_host(shim, leaf, "jail", "parent", jail, REST, wrapper=etc(tmp_path, name_server))

    assert ran.stdout == "1 before, 1 after\n", ran.stderr
    assert responder.count(leaf) >= 3
    assert inside.count(NAME) >= 2


def test_a_host_that_never_could_read_it_is_told_what_to_do(
    shim, leaf, name_server, jail, tmp_path
):
    ran = run_host(shim, leaf, "jail", "raw", jail, REST, wrapper=etc(tmp_path, name_server))

    assert ran.stdout == "1 before, 0 after\n", ran.stderr
    assert "this process cannot read /etc/resolv.conf; it needs a copy" in ran.stderr
    assert ran.returncode == 0


@pytest.mark.parametrize("how", ["fork", "syscall"])
def test_no_child_that_is_made_in_the_middle_of_look_ups_hangs(
    shim, leaf, name_server, how, tmp_path
):
    arguments = ("fork", 600) if how == "fork" else ("children", how, 600)
    wrapper = etc(tmp_path, name_server)

    def looked_up_meanwhile():
        before = name_server.count(NAME)
        ran = run_host(shim, leaf, *arguments, wrapper=wrapper)
        assert ran.returncode == 0, ran.stderr
        assert "600 children, 600 stapled, 0 hung or died" in ran.stdout, ran.stderr
        return name_server.count(NAME) >= before + 2

    wait_until(looked_up_meanwhile)


@plain_build_only
def test_haproxys_chrooted_worker_renews_what_it_must_look_up(
    shim, authority, responder, name_server, public, tmp_path
):
    leaf = authority.issue(kind="rsa", responder=f"http://{NAME}:{responder.port}/")
    responder.answer(leaf, r.soon_due())
    directory = public / "haproxy"
    directory.mkdir()
    wrapper = etc(tmp_path, name_server)
    with daemons.Haproxy(directory, shim, leaf, wrapper=wrapper) as server:
        first = server.handshake().staple
        assert_strict(first, leaf, tmp_path)
        wait_until(lambda: responder.count(leaf) >= 4, what=server.log)
        wait_until(lambda: server.handshake().staple not in (first, None), what=server.log)
        assert not server.shim_lines("error")


def test_a_new_name_server_is_asked_without_a_restart(
    s_server, leaf, responder, name_server, tmp_path
):
    """resolv.conf is written anew where a machine moves from one network to another."""
    with NameServer({NAME: "127.0.0.1"}) as newer:
        server = s_server(leaf, wrapper=etc(tmp_path, name_server))
        wait_until(lambda: name_server.count(NAME), what=server.log)
        file = tmp_path / "etc" / "resolv.conf"
        seen = f"/proc/{server.pid}/root{file}"
        with open(seen, "w", encoding="ascii") as resolv_conf:
            resolv_conf.write(f"nameserver {newer.address}\n")
        wait_until(lambda: newer.count(NAME), what=server.log)
        before = responder.count(leaf)
        wait_until(lambda: responder.count(leaf) > before, what=server.log)
