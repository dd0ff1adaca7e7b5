# SPDX-License-Identifier: MIT
"""Programs that have nothing to staple, or are told not to, do not notice the shim."""

import re
import subprocess
import sys

import pytest
import responder as r
from client import assert_strict, handshake
from conftest import plain_build_only
from servers import HERE, LIBRARY, PLAIN_ENVIRONMENT, ROOT, threads, tree
from support import wait_until


def run(command, shim=None, **environment):
    """What a user sees of command: exit code, standard output, standard error."""
    result = subprocess.run(
        shim.command(command) if shim else command,
        env=shim.environment(**environment) if shim else {**PLAIN_ENVIRONMENT, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return result.returncode, result.stdout, result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["/bin/true"],
        ["/bin/false"],
        ["/bin/sh", "-c", "echo out; echo err >&2; exit 3"],
        ["/bin/sh", "-c", "echo $(echo nested | cat)"],
        ["/bin/ls", "/nonexistent"],
        ["openssl", "version"],
        ["openssl", "dgst", "-sha256", "/dev/null"],
        [sys.executable, "-c", "import ssl; print(ssl.OPENSSL_VERSION)"],
        ["nginx", "-v"],
    ],
    ids=" ".join,
)
def test_a_program_says_and_returns_the_same(shim, command):
    assert run(command, shim) == run(command)


@plain_build_only
def test_a_program_without_openssl_stays_without_it(shim):
    _, maps, _ = run(["/bin/cat", "/proc/self/maps"], shim)
    assert LIBRARY.name in maps
    assert not re.search(r"libssl|libcrypto|libcares", maps)


@plain_build_only
def test_the_library_exports_the_hooks_and_nothing_else():
    listed = re.findall(r"^\s*(\w+);$", (ROOT / "shim" / "exports.map").read_text(), re.MULTILINE)
    output = subprocess.check_output(["nm", "-D", "--defined-only", str(LIBRARY)], text=True)
    exported = [line.split()[-1] for line in output.splitlines()]
    # Any version on a name, and the hook never fires.
    assert sorted(exported) == sorted(listed)
    assert len(listed) == len(set(listed)) >= 14


@plain_build_only
def test_the_library_needs_libc_alone():
    output = subprocess.check_output(["readelf", "-d", str(LIBRARY)], text=True)
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", output)
    assert set(needed) <= {"libc.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}, needed


@plain_build_only
def test_the_library_needs_no_executable_stack_and_is_bound_as_it_is_used():
    output = subprocess.check_output(["readelf", "-dlW", str(LIBRARY)], text=True)
    assert re.search(r"GNU_STACK.* RW ", output) and "GNU_RELRO" in output
    # Every program that starts would pay for binding at once (make bench).
    assert "NOW" not in output


@pytest.mark.parametrize("usage", [None, "client", "client server"])
def test_a_tls_client_with_a_certificate_is_left_alone(
    python_server, issue, responder, shim, usage
):
    mine = issue("client.test", usage=usage)
    server = python_server(
        issue().pem_file, "--client-ca", mine.authority.root.file, shim=False
    )
    script = str(HERE / "hosts" / "python_client.py")
    code, output, error = run([sys.executable, script, str(server.port), str(mine.pem_file)], shim)
    assert (code, error) == (0, "")
    assert responder.count(mine) == 0
    assert int(output) == 1


def test_s_client_with_a_certificate_is_left_alone(python_server, issue, responder, shim):
    mine = issue("client.test")
    server = python_server(
        issue().pem_file, "--client-ca", mine.authority.root.file, shim=False
    )
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-quiet", "-status"]
    command += ["-cert", str(mine.certificate_file), "-key", str(mine.key_file)]
    command += ["-cert_chain", str(mine.chain_file)]
    with subprocess.Popen(
        shim.command(command),
        env=shim.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as client:
        try:
            wait_until(lambda: b"depth" in client.stderr.readline(), what="a server certificate")
            assert "ocspreload" not in threads(client.pid)
            output, error = client.communicate(b"GET / HTTP/1.0\r\n\r\n", timeout=60)
        finally:
            client.kill()
    assert output.endswith(b"ok"), output
    assert b"ocspreload" not in error
    assert responder.count(mine) == 0


def test_a_server_certificate_of_a_client_alone_is_left_alone(s_server, issue, responder):
    leaf = issue(usage="client")
    server = s_server(leaf)
    assert not handshake(server.port).stapled
    assert "ocspreload" not in server.threads()
    assert responder.count(leaf) == 0


def test_a_host_without_a_responder_gets_no_thread(nginx, authority):
    leaf = authority.issue("localhost")
    server = nginx(leaf)
    assert not handshake(server.port).stapled
    assert "ocspreload" not in server.threads()


def test_a_host_has_one_thread_more_in_at_most_three_processes(nginx, issue):
    leaf = issue()
    server = nginx(leaf, workers=4)
    assert handshake(server.port).stapled
    # Who fetches, and the two who stand by; of five processes.
    assert 1 <= server.threads().count("ocspreload") <= 3
    assert all(threads(pid).count("ocspreload") <= 1 for pid in tree(server.pid))


def test_the_thread_takes_no_signal(nginx, issue):
    leaf = issue()
    server = nginx(leaf, mode="single")
    assert handshake(server.port).stapled
    status = subprocess.check_output(
        ["sh", "-c", f"grep -l '^ocspreload$' /proc/{server.pid}/task/*/comm"], text=True
    )
    (path,) = status.split()
    with open(path.replace("comm", "status"), encoding="ascii") as file:
        blocked = int(re.search(r"SigBlk:\s*([0-9a-f]+)", file.read()).group(1), 16)
    for signal in (1, 2, 3, 10, 12, 13, 14, 15, 17, 28):
        assert blocked >> (signal - 1) & 1, signal


@pytest.mark.parametrize("environment", [{"OCSPRELOAD": "off"}, {"OCSPRELOAD_ONLY": "apache2"}])
def test_a_host_that_is_not_wanted_is_left_alone(nginx, issue, responder, environment):
    leaf = issue()
    server = nginx(leaf, environment=environment)
    assert not handshake(server.port).stapled
    assert "ocspreload" not in server.threads()
    assert responder.count(leaf) == 0
    assert not server.shim_lines()


@pytest.mark.parametrize("names", ["nginx", "apache2,nginx", "apache2 nginx"])
def test_a_host_that_is_listed_is_served(nginx, issue, names, tmp_path):
    leaf = issue()
    server = nginx(leaf, environment={"OCSPRELOAD_ONLY": names})
    assert_strict(handshake(server.port).staple, leaf, tmp_path)


def test_no_descriptor_is_kept(nginx, issue, responder):
    leaf = issue(behaviour=r.soon_due())
    server, plain = nginx(leaf, mode="single"), nginx(leaf, mode="single", shim=False)
    assert handshake(server.port).stapled and not handshake(plain.port).stapled
    wait_until(lambda: responder.count(leaf) >= 2)

    def descriptors(pid):
        return int(subprocess.check_output(["sh", "-c", f"ls /proc/{pid}/fd | wc -l"]))

    # The refresh may still be closing its connection.
    wait_until(lambda: descriptors(server.pid) == descriptors(plain.pid))
