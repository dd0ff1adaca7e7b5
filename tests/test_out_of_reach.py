# SPDX-License-Identifier: MIT
"""
Hosts that the shim must leave alone, and servers whose handshakes are not for everybody: they run
as without it, and the doctor says why nothing is stapled.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess

import daemons_long
import hosts_table
import pytest
from conftest import needs_root, plain_build_only
from servers import BUILD, LIBRARY, PLAIN_ENVIRONMENT, children, is_alive, threads
from support import free_port, wait_until

pytestmark = [needs_root, plain_build_only]

WHY = {
    daemons_long.Webhook: "it is written in Go, which has a TLS of its own",
    daemons_long.Java: "its TLS is not OpenSSL's but that of Java",
    daemons_long.Exim: "its TLS is not OpenSSL's but that of GnuTLS",
    daemons_long.Boringssl: "its TLS is not OpenSSL's but that of BoringSSL",
    daemons_long.Tor: "it makes its certificates itself: there is no CA to ask about them",
    daemons_long.Openvpn: "its clients never ask for a staple",
}


@pytest.mark.skipif(hosts_table.is_wanted(), reason="it is written when all have passed")
def test_every_server_in_the_document_is_stapled_for_or_has_the_doctors_reason():
    text = hosts_table.FILE.read_text()
    reached = hosts_table.rows(text, hosts_table.BEGIN, hosts_table.END)
    assert all(first.startswith("stapled") for _, _, _, first, *_ in reached)
    others = hosts_table.rows(text, hosts_table.BEGIN_OUT, hosts_table.END_OUT)
    assert {title: why for title, _, why in others} == {
        hosts_table.HOSTS[kind.__name__].title: why for kind, why in WHY.items()
    }
    there = {title for title, *_ in reached + others}
    assert {host.title for host in hosts_table.HOSTS.values()} - there <= {"Dovecot, not chrooted"}
    assert len(there) >= 38


def assert_doctor_says_why(server, kind):
    line = doctor(server.pid)
    assert line.startswith(f"not stapled: {server.pid} (")
    assert line.rstrip("\n").partition("): ")[2] == WHY[kind]


def doctor(pid):
    result = subprocess.run(
        [BUILD / "ocspctl", "doctor", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        env=PLAIN_ENVIRONMENT,
    )
    assert result.stdout.count("\n") == 1 and not result.stderr, result
    return result.stdout


@pytest.mark.parametrize(
    "kind", daemons_long.OUT_OF_REACH, ids=lambda kind: kind.__name__.lower()
)
def test_runs_as_without_the_shim_and_the_doctor_says_why_nothing_is_stapled(
    daemon, kind, issue, responder, seen
):
    leaf = issue(kind="rsa")
    outcomes, trouble, counts = [], [], []
    for with_shim in (False, True):
        server = daemon(kind, leaf, with_shim)
        results = [server.handshake(tls=tls) for tls in ("1.2", "1.3", "1.3")]
        assert not any(result.stapled for result in results)
        assert is_alive(server.pid)
        if with_shim:
            assert_doctor_says_why(server, kind)
            assert "ocspreload" not in threads(server.pid)
        counts.append(len(threads(server.pid)))
        answers = [(result.version, result.answer[:12]) for result in results]
        outcomes.append((answers, server.stop()))
        trouble.append(server.trouble())
    assert outcomes[0] == outcomes[1]
    assert not trouble[1] - trouble[0]
    # Go and Java have as many as they see fit.
    assert counts[0] == counts[1] or kind in (daemons_long.Webhook, daemons_long.Java)
    assert not responder.asked
    assert not server.shim_lines("error", "warning", "info")
    seen(kind, hosts_table.WHY_NOT, WHY[kind])


def test_openvpn_whose_clients_never_ask_connects_as_without_the_shim(daemon, issue, seen):
    leaf = issue(kind="rsa")
    trouble = []
    for with_shim in (False, True):
        server = daemon(daemons_long.Openvpn, leaf, with_shim)
        log = server.directory / "client.log"
        with log.open("wb") as out:
            client = subprocess.Popen(
                server.client(), env=PLAIN_ENVIRONMENT, stdout=out, stdin=subprocess.DEVNULL
            )
        with ended(client):
            done = "Initialization Sequence Completed"
            wait_until(lambda: done in log.read_text() and done in server.log(), what=server.log)
        if with_shim:
            assert_doctor_says_why(server, daemons_long.Openvpn)
        assert server.stop() == 0
        trouble.append(server.trouble())
        assert not server.shim_lines("error", "warning")
    assert not trouble[1] - trouble[0]
    seen(daemons_long.Openvpn, hosts_table.WHY_NOT, WHY[daemons_long.Openvpn])


@contextlib.contextmanager
def ended(process):
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("usage", [None, "client"])
def test_curl_with_a_client_certificate_asks_nobody_and_starts_no_thread(
    shim, issue, responder, tmp_path, usage
):
    identity = issue("client", kind="rsa", usage=usage)
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as listener:
        log = tmp_path / "stderr"
        with log.open("wb") as stderr:
            command = ["curl", "-s", "--cert", identity.chain_file, "--key", identity.key_file]
            curl = subprocess.Popen(
                [*map(str, command), f"https://127.0.0.1:{port}/"],
                env=shim.environment(),
                stderr=stderr,
                stdout=subprocess.DEVNULL,
            )
        with ended(curl):
            connection, _ = listener.accept()
            with connection:
                # Its certificate is loaded before it says hello.
                assert connection.recv(1) == b"\x16"
                assert not [name for name in threads(curl.pid) if "ocsp" in name]
                assert "asking" not in log.read_text()
    assert not responder.asked


def test_freeradius_staples_for_eap_tls(daemon, issue, responder, seen):
    leaf, identity = issue(kind="rsa"), issue("somebody", kind="rsa", usage="client")
    eap_test = shutil.which("eapol_test", path=PLAIN_ENVIRONMENT["PATH"])
    assert eap_test, "eapol_test is missing: scripts/deps test installs it"
    for with_shim in (True, False):
        server = daemon(daemons_long.Freeradius, leaf, with_shim)
        for ocsp in ("0", "2"):  # not asked for; without one it does not go on
            conf = server.write(
                "eap.conf",
                'network={\n key_mgmt=WPA-EAP\n eap=TLS\n identity="somebody"\n'
                f' ca_cert="{leaf.authority.root.file}"\n client_cert="{identity.chain_file}"\n'
                f' private_key="{identity.key_file}"\n ocsp={ocsp}\n}}\n',
            )
            result = subprocess.run(
                [eap_test, "-c", str(conf), "-a", "127.0.0.1", "-p", str(server.eap_port)]
                + ["-s", "secret", "-t", "10"],
                capture_output=True,
                text=True,
                check=False,
                env=PLAIN_ENVIRONMENT,
            )
            passed = result.returncode == 0 and result.stdout.rstrip().endswith("SUCCESS")
            assert passed == (with_shim or ocsp == "0"), result.stdout[-3000:] + server.log()
        server.stop()
    assert responder.count(leaf) == 1
    seen(type("FreeradiusEap", (), {}))


COMMANDS = [
    ["id"],
    ["sh", "-c", "echo $((6 * 7)); ls /etc/passwd | cat"],
    ["openssl", "x509", "-noout", "-subject", "-in", "CERTIFICATE"],
    ["curl", "--version"],
    ["/usr/bin/python3", "-c", "import ssl; print(ssl.OPENSSL_VERSION)"],
    ["/usr/bin/perl", "-e", "print 6 * 7"],
    ["setpriv", "--reuid", "nobody", "--clear-groups", "id", "-u"],
    ["find", "/etc/ld.so.conf.d", "-name", "*.conf"],
    ["sh", "-c", "exit 3"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0].split("/")[-1])
def test_named_in_ld_so_preload_it_does_no_harm_to_other_programs(public, shim, issue, command):
    leaf = issue()
    command = [str(leaf.chain_file) if word == "CERTIFICATE" else word for word in command]
    library = public / "libocspreload.so"
    shutil.copy(LIBRARY, library)
    seen = []
    for number, files in enumerate(({}, {"ld.so.preload": f"{library}\n"})):
        directory = public / str(number)
        directory.mkdir()
        wrapper = daemons_long.with_etc(directory, files)
        if files:
            maps = subprocess.check_output([*wrapper, "cat", "/proc/self/maps"], text=True)
            assert "libocspreload.so" in maps, "else this shows nothing"
        result = subprocess.run(
            [*wrapper, *command], capture_output=True, env=PLAIN_ENVIRONMENT, check=False
        )
        seen.append((result.returncode, result.stdout, result.stderr))
    assert seen[0] == seen[1]
    assert not os.path.exists("/etc/ld.so.preload"), "the machine's own is untouched"


@pytest.mark.parametrize(
    "kind",
    [daemons_long.Squid, daemons_long.SquidByBareName],
    ids=lambda kind: kind.__name__.lower(),
)
def test_both_ways_reach_squids_worker_and_the_doctor_sees_it(daemon, kind, issue):
    server = daemon(kind, issue(kind="rsa"))
    assert server.handshake().stapled
    (worker,) = children(server.pid)
    line = doctor(worker)
    assert re.match(rf"ok: {worker} \(squid\): libocspreload.so is in it, and OpenSSL 3", line)


def test_squids_worker_gets_nothing_from_a_path_and_the_doctor_says_so(daemon, issue):
    server = daemon(daemons_long.SquidByEnvironment, issue(kind="rsa"))
    assert not server.handshake().stapled
    (worker,) = children(server.pid)
    assert "(AT_SECURE)" in doctor(worker)
    assert "name it in /etc/ld.so.preload" in doctor(worker)
