# SPDX-License-Identifier: MIT
"""ocspctl doctor PID: why a running process staples nothing, in one line."""

import os
import pathlib
import shutil
import signal
import subprocess

import pytest
from conftest import needs_root, plain_build_only
from servers import BUILD, LIBRARY, PLAIN_ENVIRONMENT
from support import wait_until

pytestmark = plain_build_only

CC = os.environ.get("CC", "cc")
LOADED = "libocspreload.so is in it, and OpenSSL"


def doctor(pid, code):
    result = subprocess.run(
        [BUILD / "ocspctl", "doctor", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=PLAIN_ENVIRONMENT,
    )
    text = result.stdout + result.stderr
    assert (result.returncode, text.count("\n")) == (code, 1), text
    return text.rstrip("\n")


@pytest.fixture
def start():
    """Starts programs that wait, and ends them."""
    processes = []

    def run(*command, environment=None, until=lambda pid: True):
        process = subprocess.Popen(
            list(map(str, command)),
            env={**PLAIN_ENVIRONMENT, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        processes.append(process)
        wait_until(lambda: until(process.pid), what=command)
        return process.pid

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def maps(pid):
    return pathlib.Path(f"/proc/{pid}/maps").read_text()


def has_run(program):
    return lambda pid: os.readlink(f"/proc/{pid}/exe") == os.path.realpath(program)


def has_libc(pid):
    """Its executable is there before its libraries are."""
    return "libc.so.6" in maps(pid)


PRELOAD = {"LD_PRELOAD": str(LIBRARY)}


@pytest.fixture
def start_openssl(start, issue, public):
    """A server process of OpenSSL, of any user, with these variables besides."""
    leaf = issue()
    both = public / "tls.pem"
    both.write_bytes(leaf.pem_file.read_bytes())

    def run(environment, program="/usr/bin/openssl", wrapper=()):
        return start(
            *(*wrapper, program, "s_server", "-accept", "127.0.0.1:0", "-cert", both),
            environment=environment,
            # libcrypto is mapped last.
            until=lambda pid: all(name in maps(pid) for name in ("libssl.so", "libcrypto.so")),
        )

    return run


def test_the_shim_in_a_process_of_openssl_is_well(start_openssl):
    pid = start_openssl(PRELOAD)
    assert doctor(pid, 0).startswith(f"ok: {pid} (openssl): {LOADED} ")
    version = subprocess.check_output(["openssl", "version"], text=True).split()[1]
    assert f"OpenSSL {version}; " in doctor(pid, 0)


@pytest.mark.parametrize(
    "environment, why",
    [
        ({}, "libocspreload.so is not in it: LD_PRELOAD did not name it when it was started"),
        (
            {"LD_PRELOAD": "/nowhere/libocspreload.so"},
            "LD_PRELOAD names /nowhere/libocspreload.so, but the loader could not load it: "
            "there is no such file",
        ),
        ({**PRELOAD, "OCSPRELOAD": "off"}, "OCSPRELOAD is off for it"),
        ({**PRELOAD, "OCSPRELOAD_ONLY": "nginx smtpd"}, "OCSPRELOAD_ONLY does not list it"),
    ],
    ids=["absent", "unloadable", "off", "only"],
)
def test_what_keeps_the_shim_from_a_process_of_openssl_is_named(start_openssl, environment, why):
    pid = start_openssl(environment)
    assert doctor(pid, 1).startswith(f"not stapled: {pid} (openssl): {why}")


def preload_from(start_openssl, library, wrapper=()):
    """A process that was to have a library of this path in it; what runs before it was not."""
    return start_openssl({}, wrapper=[*wrapper, "env", f"LD_PRELOAD={library}"])


def with_another_machine(content):
    return content[:18] + b"\xb7\0" + content[20:]  # e_machine: AArch64


@pytest.mark.parametrize(
    "change, why",
    [
        (with_another_machine, "it is for another kind of machine"),
        (lambda content: b"Not found\n", "it is no shared library"),
        (lambda content: b"", "it is no shared library"),
    ],
    ids=["another machine", "a text", "empty"],
)
def test_a_library_that_cannot_be_loaded_is_named_with_what_is_wrong(
    start_openssl, public, change, why
):
    library = public / "libocspreload.so"
    library.write_bytes(change(LIBRARY.read_bytes()))
    pid = preload_from(start_openssl, library)
    named = f"LD_PRELOAD names {library}, but the loader could not load it"
    assert doctor(pid, 1) == f"not stapled: {pid} (openssl): {named}: {why}"


@pytest.mark.parametrize("name", ["libocspreload.so", "libocsppreload.so"])
def test_a_library_without_its_directory_is_not_looked_for_everywhere(start_openssl, name):
    pid = preload_from(start_openssl, name)
    line = doctor(pid, 1)
    assert f"LD_PRELOAD names {name}, " in line and "it has no directory" in line


@needs_root
def test_a_library_that_the_servers_user_may_not_read_is_said(start_openssl, public):
    library = public / "libocspreload.so"
    shutil.copy(LIBRARY, library)
    library.chmod(0o640)
    drop = ["setpriv", "--reuid=64998", "--regid=64998", "--clear-groups"]
    pid = preload_from(start_openssl, library, drop)
    assert doctor(pid, 1).endswith("its user may not read it")


NOT_EXECUTABLE = 'mount -t tmpfs -o noexec tmpfs /mnt && cp "$0" /mnt && exec "$@"'
IN_MNT = ["unshare", "--mount", "sh", "-c", NOT_EXECUTABLE, str(LIBRARY)]


@needs_root
def test_a_library_where_nothing_may_be_executed_is_not_in_the_process(start_openssl):
    """As NoExecPaths= in redis-server's unit has it: the loader leaves a part of it in memory."""
    pid = preload_from(start_openssl, f"/mnt/{LIBRARY.name}", IN_MNT)
    assert f"/mnt/{LIBRARY.name}" in maps(pid)
    line = doctor(pid, 1)
    assert f"LD_PRELOAD names /mnt/{LIBRARY.name}, but" in line
    assert "nothing may be executed where it is" in line and "ExecPaths=" in line


def test_a_library_that_came_too_late_is_loaded_by_a_restart(start_openssl, public):
    library = public / "libocspreload.so"
    pid = preload_from(start_openssl, library)
    shutil.copy(LIBRARY, library)
    assert "it looks as if it could, so restart it" in doctor(pid, 1)


def test_a_library_that_was_replaced_since_is_said(start_openssl, public):
    library = public / "libocspreload.so"
    shutil.copy(LIBRARY, library)
    pid = preload_from(start_openssl, library)
    restart = "another file is in its place now: restart it"
    assert restart not in doctor(pid, 0)
    shutil.copy(LIBRARY, public / "new")
    (public / "new").replace(library)
    assert LOADED in doctor(pid, 0) and restart in doctor(pid, 0)


def test_that_it_may_not_fetch_is_said(start_openssl):
    line = doctor(start_openssl({**PRELOAD, "OCSPRELOAD_FETCH": "off"}), 0)
    assert "and OCSPRELOAD_FETCH, which forbids it to fetch: then another process" in line


def test_a_process_that_is_listed_is_well(start_openssl):
    environment = {**PRELOAD, "OCSPRELOAD_ONLY": "nginx,openssl"}
    assert LOADED in doctor(start_openssl(environment), 0)


JAIL = 'mount --bind / "$0" && exec chroot "$0" "$@"'


@needs_root
@pytest.mark.parametrize(
    "wrapper, why",
    [
        (
            ["prlimit", "--nproc=1", "setpriv", "--reuid=64998", "--regid=64998", "--clear-groups"],
            "and a limit (RLIMIT_NPROC) that forbids it a thread to fetch: then another process",
        ),
        (["prlimit", "--nproc=1"], None),
        (
            ["unshare", "--mount", "sh", "-c", JAIL, "/mnt"],
            "and a chroot, in which it may reach neither its store nor name servers: then another",
        ),
    ],
    ids=["no thread", "no thread but for root", "chroot"],
)
def test_what_may_keep_the_shim_from_fetching_is_named(start_openssl, wrapper, why):
    pid = start_openssl(PRELOAD, wrapper=wrapper)
    said = doctor(pid, 0)
    assert LOADED in said
    assert ("then another process of its service, or an agent" in said) == bool(why)
    assert not why or why in said


def test_what_a_process_logs_to_is_not_touched_by_the_doctor(start_openssl, tmp_path):
    log = tmp_path / "log"
    pid = start_openssl({**PRELOAD, "OCSPRELOAD_LOG": str(log), "OCSPRELOAD_TIMEOUT": "never"})
    wait_until(log.exists)
    log.unlink()
    assert LOADED in doctor(pid, 0)
    assert not log.exists()


@needs_root
def test_a_process_with_more_rights_than_its_user_is_sent_to_ld_so_preload(start_openssl, public):
    program = public / "openssl"
    shutil.copy("/usr/bin/openssl", program)
    shutil.chown(program, "nobody")
    program.chmod(0o4755)
    pid = start_openssl(PRELOAD, program)
    line = doctor(pid, 1)
    assert "libocspreload.so is not in it" in line
    assert "(AT_SECURE)" in line and "/etc/ld.so.preload" in line


OVERWRITES = (
    "#include <openssl/ssl.h>\n#include <string.h>\n#include <unistd.h>\n"
    "int main(void) { SSL_CTX_new(TLS_server_method());\n"
    "for (char **e = environ; *e; e++) memset(*e, 0, strlen(*e)); pause(); }\n"
)


def has_no_environment(pid):
    return not pathlib.Path(f"/proc/{pid}/environ").read_bytes().strip(b"\0")


@pytest.mark.parametrize(
    "environment, code, said",
    [
        (PRELOAD, 0, "what variables it got cannot be seen any more"),
        ({"LD_PRELOAD": "/nowhere/libocspreload.so"}, 1, "or the loader could not load it"),
        ({}, 1, "or the loader could not load it"),
    ],
    ids=["loaded", "unloadable", "absent"],
)
def test_of_an_environment_that_was_written_over_nothing_is_claimed(
    start, tmp_path, environment, code, said
):
    """nginx puts its title there."""
    program = compiled(tmp_path, OVERWRITES, "-D_GNU_SOURCE", "-lssl", "-lcrypto")
    pid = start(
        program,
        environment={**environment, "FILLED": "yes"},
        until=lambda pid: "libssl.so" in maps(pid) and has_no_environment(pid),
    )
    assert said in doctor(pid, code)


@needs_root
def test_that_nothing_may_be_executed_shows_without_the_environment_too(start, public):
    program = compiled(public, OVERWRITES, "-D_GNU_SOURCE", "-lssl", "-lcrypto")
    pid = start(
        *(*IN_MNT, "env", f"LD_PRELOAD=/mnt/{LIBRARY.name}", program),
        until=lambda pid: "libssl.so" in maps(pid) and has_no_environment(pid),
    )
    assert f"LD_PRELOAD names /mnt/{LIBRARY.name}, but" in doctor(pid, 1)
    assert "nothing may be executed where it is" in doctor(pid, 1)


def test_the_agent_is_no_server(start, tmp_path):
    environment = {"OCSPRELOAD_AGENT": str(tmp_path / "agent"), "OCSPRELOAD_STORE": "off"}
    pid = start(
        BUILD / "ocspctl",
        "agent",
        environment=environment,
        until=lambda pid: (tmp_path / "agent").exists(),
    )
    assert doctor(pid, 1).endswith("it is ocspreload's own tool, and serves nobody")


def test_a_process_that_has_loaded_no_tls_says_so(start):
    pid = start("sleep", "1000", environment=PRELOAD, until=has_libc)
    assert doctor(pid, 1).startswith(f"not stapled: {pid} (sleep): it has loaded no TLS library")


@pytest.mark.parametrize(
    "library, name",
    [
        ("libgnutls.so.30", "GnuTLS"),
        ("libnss3.so", "NSS"),
        ("/usr/lib/x86_64-linux-gnu/android/libcrypto.so.0", "BoringSSL"),
    ],
    ids=["gnutls", "nss", "boringssl"],
)
def test_the_tls_of_others_is_called_by_its_name(start, library, name):
    wait = f"import ctypes, sys; ctypes.CDLL({library!r}); sys.stdin.read()"
    pid = start(
        *("/usr/bin/python3", "-c", wait),
        environment=PRELOAD,
        until=lambda pid: library.split("/")[-1] in maps(pid),
    )
    assert f"its TLS is not OpenSSL's but that of {name}" in doctor(pid, 1)


def compiled(tmp_path, text, *options):
    program = tmp_path / "program"
    subprocess.run(
        [CC, "-o", program, "-x", "c", "-", "-x", "none", *options],
        input=text,
        text=True,
        check=True,
    )
    return program


WAITS = "#include <unistd.h>\nint main(void) { pause(); return 0; }\n"
HAS_OPENSSL = (
    "#include <openssl/ssl.h>\n#include <unistd.h>\n"
    "int main(void) { SSL_CTX_set_ex_data(SSL_CTX_new(TLS_server_method()), 0, 0); pause(); }\n"
)
INSIDE = ["-l:libssl.a", "-l:libcrypto.a"]


def linked_with(tmp_path, libraries):
    """A program that waits, linked with libraries of these names and with these texts inside."""
    for name, text in libraries.items():
        subprocess.run(
            [CC, "-shared", "-o", tmp_path / name, "-x", "c", "-"],
            input=f'const char text[] = "{text}";\n',
            text=True,
            check=True,
        )
    names = [f"-l:{name}" for name in libraries]
    return compiled(
        tmp_path, WAITS, "-Wl,--no-as-needed", f"-L{tmp_path}", *names, f"-Wl,-rpath,{tmp_path}"
    )


@pytest.mark.parametrize(
    "name, libraries",
    [
        ("Java", {"libjvm.so": ""}),
        ("Java", {"libjvm.so": "", "libnss3.so": ""}),
        ("GnuTLS", {"libgnutls.so.30": ""}),
        ("NSS", {"libnss3.so": "", "libssl3.so": ""}),
        ("Mbed TLS", {"libmbedtls.so.14": ""}),
        ("wolfSSL", {"libwolfssl.so.35": ""}),
        ("rustls", {"librustls.so": "AWS-LC 1.29.0"}),
        ("s2n-tls", {"libs2n.so.1": ""}),
        ("BearSSL", {"libbearssl.so.6": ""}),
        ("Botan", {"libbotan-2.so.19": ""}),
        ("LibreSSL", {"libcrypto.so.52": "LibreSSL 3.8.2", "libssl.so.55": ""}),
        ("BoringSSL", {"libcrypto.so": "BoringSSL", "libssl.so": ""}),
        (
            "AWS-LC",
            {"libcrypto-awslc.so.0": "AWS-LC 1.29.0\0BoringSSL", "libssl-awslc.so.0": ""},
        ),
        # Of a module of SASL's, say, in a server of GnuTLS.
        ("GnuTLS", {"libcrypto.so.3": "OpenSSL 3.0.19 27 Jan 2026", "libgnutls.so.30": ""}),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_a_library_that_is_not_openssl_is_called_by_its_name(start, tmp_path, name, libraries):
    program = linked_with(tmp_path, libraries)
    pid = start(program, environment=PRELOAD, until=has_libc)
    assert doctor(pid, 1).endswith(f"its TLS is not OpenSSL's but that of {name}")


@pytest.mark.parametrize(
    "name, text",
    [
        ("rustls", "/registry/src/index.crates.io-1949cf8c6b5b557f/rustls-0.23.20/src/conn.rs"),
        ("rustls", "rustls::server::hs AWS-LC 1.29.0"),
        ("AWS-LC", "AWS-LC 1.29.0 BoringSSL"),
        ("BoringSSL", "OpenSSL 1.1.1 (compatible; BoringSSL)"),
        ("LibreSSL", "LibreSSL 3.8.2"),
        ("wolfSSL", "wolfSSL 5.5.4"),
        ("Mbed TLS", "mbed TLS 2.28.3"),
        ("Mbed TLS", "Mbed TLS 3.6.2"),
    ],
)
def test_a_tls_inside_a_program_is_called_by_its_name(start, tmp_path, name, text):
    program = compiled(tmp_path, f'__attribute__((used)) const char text[] = "{text}";\n{WAITS}')
    pid = start(program, environment=PRELOAD, until=has_libc)
    assert doctor(pid, 1).endswith(f"its TLS is not OpenSSL's but that of {name}")


def test_libcrypto_alone_is_no_tls(start, tmp_path):
    program = linked_with(tmp_path, {"libcrypto.so.3": "OpenSSL 3.0.19 27 Jan 2026"})
    pid = start(program, environment=PRELOAD, until=has_libc)
    assert "it has loaded OpenSSL 3.0.19's libcrypto, but not its libssl" in doctor(pid, 1)


def test_a_second_tls_beside_openssl_is_named(start, tmp_path):
    openssl = {"libcrypto.so.3": "OpenSSL 3.0.19 27 Jan 2026", "libssl.so.3": ""}
    program = linked_with(tmp_path, {**openssl, "libgnutls.so.30": ""})
    pid = start(program, environment=PRELOAD, until=lambda pid: "libgnutls" in maps(pid))
    assert f"{LOADED} 3.0.19 (also GnuTLS, which is out of reach); " in doctor(pid, 0)


@pytest.mark.parametrize(
    "name, why",
    [
        ("openvpn", "its clients never ask for a staple"),
        ("tor", "it makes its certificates itself: there is no CA to ask about them"),
    ],
)
@pytest.mark.parametrize("environment", [PRELOAD, {}], ids=["loaded", "not loaded"])
def test_where_there_is_nothing_to_gain_nothing_is_advised(
    start_openssl, public, name, why, environment
):
    program = public / name
    shutil.copy("/usr/bin/openssl", program)
    pid = start_openssl(environment, program)
    assert doctor(pid, 1) == f"not stapled: {pid} ({name}): {why}"
    program.unlink()  # as an upgrade does
    assert doctor(pid, 1) == f"not stapled: {pid} ({name}): {why}"


def test_a_static_program_cannot_be_preloaded(start, tmp_path):
    program = compiled(tmp_path, WAITS, "-static")
    pid = start(program, environment=PRELOAD, until=has_run(program))
    assert "it is linked statically: nothing can be preloaded into it" in doctor(pid, 1)


def test_openssl_inside_a_program_counts_only_where_it_is_exported(start, tmp_path):
    program = compiled(tmp_path, HAS_OPENSSL, *INSIDE)
    pid = start(program, environment=PRELOAD, until=has_libc)
    line = doctor(pid, 1)
    assert "it has OpenSSL " in line and "inside and does not export it" in line
    (tmp_path / "exported").mkdir()
    program = compiled(tmp_path / "exported", HAS_OPENSSL, *INSIDE, "-rdynamic")
    pid = start(
        program, environment=PRELOAD, until=lambda pid: "libocspreload.so" in maps(pid)
    )
    assert LOADED in doctor(pid, 0)
    pid = start(program, until=has_libc)
    assert "LD_PRELOAD did not name it" in doctor(pid, 1)


@pytest.mark.parametrize("offset", [0, 63, 4096, 1 << 40, (1 << 64) - 64])
def test_a_table_of_sections_that_is_none_is_not_followed(start, tmp_path, offset):
    """The kernel runs such a program all the same."""
    image = bytearray(pathlib.Path("/usr/bin/sleep").read_bytes())
    image[40:48] = offset.to_bytes(8, "little")  # e_shoff
    image[60:62] = b"\xff\xff"  # e_shnum
    program = tmp_path / "sleep"
    program.write_bytes(image)
    program.chmod(0o755)
    pid = start(program, "1000", until=has_libc)
    assert "it has loaded no TLS library" in doctor(pid, 1)


def test_a_name_cannot_break_a_line_or_a_terminal(start, tmp_path):
    program = tmp_path / "a\nb\x1b[31m"
    shutil.copy("/usr/bin/sleep", program)
    pid = start(program, "1000", until=has_libc)
    assert f"{pid} (a?b?[31m): " in doctor(pid, 1)


def test_a_process_that_is_not_there_is_said(start):
    pid = start("true")
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    # A zombie has no memory to look at.
    assert "it has ended" in doctor(pid, 1)
    os.kill(pid, signal.SIGKILL)
    assert doctor("4194999", 1) == "ocspctl: 4194999: there is no such process"


def test_a_file_whose_name_is_a_number_is_reached_by_its_path(issue, tmp_path):
    leaf = issue()
    (tmp_path / "1").write_bytes(leaf.chain_file.read_bytes())
    result = subprocess.run(
        [BUILD / "ocspctl", "doctor", "./1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**PLAIN_ENVIRONMENT, "SSL_CERT_FILE": str(leaf.authority.file)},
    )
    assert result.stdout.startswith("ok: localhost ")
