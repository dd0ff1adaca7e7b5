# SPDX-License-Identifier: MIT
"""
The rows of the matrix, for one release of Debian; runs inside its root, see scripts/matrix.

usage: rows.py LIBRARY

Nothing but this release's Python, OpenSSL and nginx, and the library that is tested. Prints a line
of JSON per row: its name, "ok", "-" (this release has no such thing) or what was wrong.
"""

import base64
import concurrent.futures
import contextlib
import ctypes
import http.server
import itertools
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import urllib.parse

PATIENCE = 20
SLOW = 1200  # with somebody who looks over the server's shoulder
HERE = pathlib.Path(__file__).parent
RELEASE = HERE.parent.parent / "build/release"
TOOL = RELEASE / "ocspctl"
AGENT = "@ocspreload"
# There may be two: the release's own, and one built with an OpenSSL that is newer.
NGINX = "/opt/nginx/nginx" if os.path.exists("/opt/nginx/nginx") else "nginx"
ROWS = []
_numbers = itertools.count(1)


class Absent(Exception):
    """This release cannot do it."""


def row(name):
    def add(function):
        ROWS.append((name, function))
        return function

    return add


def check(truth, what):
    if not truth:
        raise AssertionError(what)


def wait_until(condition, what, patience=PATIENCE):
    end = time.monotonic() + patience
    while not condition():
        check(time.monotonic() < end, f"{what}: not within {patience} s")
        time.sleep(0.01)


def run(*command, status=0, patience=PATIENCE, **options):
    ran = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=patience,
        check=False,
        **options,
    )
    output = ran.stdout.decode(errors="replace")
    check(status is None or ran.returncode == status, f"{command[0]}: {ran.returncode}: {output}")
    return output


class Leaf:
    def __init__(self, authority, name, status, usage, kind):
        number = next(_numbers)
        stem = authority.directory / f"{number}-{name}"
        self.certificate, self.key = stem.with_suffix(".crt"), stem.with_suffix(".key")
        self.pem = stem.with_suffix(".pem")
        self.serial = f"{0x1000 + number:04X}"
        self.name = name
        self.issuer = authority
        request, extensions = stem.with_suffix(".csr"), stem.with_suffix(".ext")
        extensions.write_text(
            f"subjectAltName = DNS:{name}\nextendedKeyUsage = {usage}\n"
            f"authorityInfoAccess = OCSP;URI:{authority.url}\n"
            "subjectKeyIdentifier = hash\nauthorityKeyIdentifier = keyid\n"
        )
        key = ["-newkey", "rsa:2048"]
        if kind == "ec":
            key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        run("openssl", "req", "-new", "-nodes", *key, "-subj", f"/CN={name}",
            "-keyout", self.key, "-out", request)  # fmt: skip
        run("openssl", "x509", "-req", "-in", request, "-CA", authority.certificate,
            "-CAkey", authority.key, "-set_serial", f"0x{self.serial}", "-days", "30",
            "-extfile", extensions, "-out", self.certificate)  # fmt: skip
        self.chain = authority.chain()
        self.full = stem.with_suffix(".full")
        self.full.write_bytes(self.certificate.read_bytes() + self.chain.read_bytes())
        self.pem.write_bytes(self.key.read_bytes() + self.full.read_bytes())
        authority.enter(self.serial, status)


class Authority:
    """A certificate authority with its responder, a thread of this process."""

    def __init__(self, directory, parent=None, status="V", asks=True):
        self.directory = directory
        self.parent = parent
        self.certificate, self.key = directory / "ca.crt", directory / "ca.key"
        self.index = directory / "index.txt"
        self.index.touch()
        self.asked = []
        if parent:
            self.certify(parent, status, asks)
        else:
            run("openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=Root",
                "-addext", "keyUsage = critical, keyCertSign, cRLSign", "-days", "30",
                "-keyout", self.key, "-out", self.certificate)  # fmt: skip
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        # Who asked may have ended meanwhile.
        self.server.handle_error = lambda *_: None
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def certify(self, parent, status, asks):
        self.serial = serial = f"{0x100 + next(_numbers):04X}"
        request, extensions = self.directory / "ca.csr", self.directory / "ca.ext"
        extensions.write_text(
            "basicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign, cRLSign\n"
            "extendedKeyUsage = clientAuth, serverAuth\n"
            "subjectKeyIdentifier = hash\nauthorityKeyIdentifier = keyid\n"
            + (f"authorityInfoAccess = OCSP;URI:{parent.url}\n" if asks else "")
        )
        run("openssl", "req", "-new", "-nodes", "-newkey", "rsa:2048", "-subj", f"/CN=CA {serial}",
            "-keyout", self.key, "-out", request)  # fmt: skip
        run("openssl", "x509", "-req", "-in", request, "-CA", parent.certificate,
            "-CAkey", parent.key, "-set_serial", f"0x{serial}", "-days", "30",
            "-extfile", extensions, "-out", self.certificate)  # fmt: skip
        parent.enter(serial, status)
        self.issuer = parent

    def enter(self, serial, status):
        revoked = "260101000000Z" if status == "R" else ""
        with self.index.open("a") as index:
            # No subject may stand there twice.
            index.write(f"{status}\t491231235959Z\t{revoked}\t{serial}\tunknown\t/CN={serial}\n")

    def chain(self):
        """What is sent after a leaf: the root is known."""
        file = self.directory / "chain.pem"
        file.write_bytes(
            self.certificate.read_bytes() + self.parent.chain().read_bytes() if self.parent else b""
        )
        return file

    def handler(authority):  # pylint: disable=no-self-argument
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                path = urllib.parse.unquote(self.path.lstrip("/"))
                self.answer(base64.b64decode(path))

            def do_POST(self):
                self.answer(self.rfile.read(int(self.headers["Content-Length"])))

            def answer(self, request):
                response = authority.respond(request)
                self.send_response(200)
                self.send_header("Content-Type", "application/ocsp-response")
                self.send_header("Content-Length", str(len(response)))
                self.end_headers()
                self.wfile.write(response)

            def log_message(self, *_):
                pass

        return Handler

    def respond(self, request, days=1):
        number = next(_numbers)
        asked, answered = self.directory / f"{number}.req", self.directory / f"{number}.resp"
        asked.write_bytes(request)
        run("openssl", "ocsp", "-index", self.index, "-CA", self.certificate,
            "-rsigner", self.certificate, "-rkey", self.key, "-ndays", str(days),
            "-reqin", asked, "-respout", answered)  # fmt: skip
        self.asked.append(asked)
        return answered.read_bytes()

    def issue(self, name="localhost", status="V", usage="serverAuth", kind="ec"):
        return Leaf(self, name, status, usage, kind)

    def response_file(self, leaf, days):
        """A response for a host that has its own."""
        request = self.directory / f"{leaf.serial}.own.req"
        run("openssl", "ocsp", "-issuer", self.certificate, "-cert", leaf.certificate,
            "-no_nonce", "-reqout", request)  # fmt: skip
        file = self.directory / f"{leaf.serial}.own"
        file.write_bytes(self.respond(request.read_bytes(), days))
        self.asked.clear()
        return file


class Bench:
    """What one row works with; everything that it starts ends with it."""

    def __init__(self, library, directory):
        self.preload = library
        # In the environment besides.
        self.settings = {}
        # What a server is started by, so that somebody looks over its shoulder.
        self.wrapper = []
        # ThreadSanitizer does not know what to do in the child of a process with threads.
        self.may_fork = True
        self.directory = directory
        directory.chmod(0o777)
        self.log = directory / "shim.log"
        self.log.touch()
        self.log.chmod(0o666)
        self.authority = Authority(directory)
        self.issue = self.authority.issue
        self.authorities = [self.authority]
        self.endings = []

    def environment(self):
        return {
            **os.environ,
            "LD_PRELOAD": self.preload,
            "OCSPRELOAD_LOG": str(self.log),
            "OCSPRELOAD_LOG_LEVEL": os.environ.get("OCSPRELOAD_LOG_LEVEL", "warning"),
            "OCSPRELOAD_TRUSTED": str(self.authority.certificate),
            "OCSPRELOAD_STARTUP_WAIT": "10s",
            **self.settings,
        }

    def close(self):
        for end in reversed(self.endings):
            end()
        for authority in self.authorities:
            authority.server.shutdown()
            authority.server.server_close()

    def intermediate(self, parent=None, **options):
        directory = self.directory / f"ca-{len(self.authorities)}"
        directory.mkdir()
        made = Authority(directory, parent or self.authority, **options)
        self.authorities.append(made)
        return made

    def start(self, *command, shim=True, port, udp=False):
        output = (self.directory / f"output-{next(_numbers)}").open("w+b")
        process = subprocess.Popen(
            [str(word) for word in (*self.wrapper, *command)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=self.environment() if shim else None,
        )

        def end():
            process.terminate()
            process.wait(PATIENCE)

        self.endings.append(end)

        def is_ready():
            check(process.poll() is None, f"{command[0]} ended: {read(output)}")
            return listens(port, udp)

        wait_until(is_ready, f"{command[0]} listens", SLOW if self.wrapper else PATIENCE)
        return process

    def s_server(self, leaf, *options, shim=True, udp=False):
        port = free_port(udp)
        self.start("openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", leaf.certificate,
                   "-key", leaf.key, "-quiet", *options,
                   port=port, shim=shim, udp=udp)  # fmt: skip
        return port

    def side_door(self, leaf, *own):
        """A server that goes past the hooks; what its own status callback staples."""
        port = free_port()
        self.start(sys.executable, HERE / "host.py", libssl(which("openssl")), "looked_up",
                   leaf.full, leaf.key, port, *own, port=port)  # fmt: skip
        return port

    def agent(self):
        self.settings = {"LD_PRELOAD": ""}
        self.start(TOOL, "agent", port=AGENT)
        # Nothing is left to the servers but to ask it.
        self.settings = {"OCSPRELOAD_FETCH": "off", "OCSPRELOAD_STORE": "off"}

    def tool(self, *words, status=0):
        environment = {**self.environment(), "LD_PRELOAD": "", "OCSPRELOAD_LOG": "stderr"}
        return run(TOOL, *words, env=environment, status=status)

    def python(self, leaf):
        port = free_port()
        server = HERE.parent / "hosts" / "python_server.py"
        self.start(sys.executable, server, port, leaf.pem, port=port)
        return port

    def nginx(self, leaf, more="", servers=(), shim=True):
        return Nginx(self, leaf, more, servers, shim)

    def check_log(self):
        check(not self.log.read_text(), f"logged: {self.log.read_text()}")

    def s_client(self, port, *options, shim=False, status=0):
        return run("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile",
                   self.authority.certificate, "-verify_return_error", "-status", *options,
                   env=self.environment() if shim else None, status=status)  # fmt: skip

    def check_stapled(self, port, *options):
        output = self.s_client(port, *options)
        check("OCSP Response Status: successful" in output, "no staple")
        check("Cert Status: good" in output, output)
        return output

    def check_unstapled(self, port, *options):
        output = self.s_client(port, *options)
        check("OCSP Response Status" not in output, "a staple")
        check("Verify return code: 0 (ok)" in output, output)


class Nginx:
    """In daemon mode, with a master that binds and workers of another user, if it may fork."""

    def __init__(self, bench, leaf, more, servers, shim):
        self.bench = bench
        self.port = free_port()
        self.directory = bench.directory / f"nginx-{next(_numbers)}"
        (self.directory / "html").mkdir(parents=True)
        (self.directory / "html" / "index.html").write_text("ok")
        (self.directory / "logs").mkdir()
        self.error_log = self.directory / "error.log"
        hosts = [(leaf.name, leaf, more), *((other.name, other, "") for other in servers)]
        (self.directory / "nginx.conf").write_text(
            "user www-data; worker_processes 2; pid nginx.pid; error_log error.log notice;\n"
            "events { worker_connections 64; }\n"
            "http { access_log off;\n"
            + "".join(f"  {name}_temp_path {name};\n" for name in self.temporary())
            + "".join(self.server(*host) for host in hosts)
            + "}\n"
        )
        command = [NGINX, "-p", self.directory, "-c", self.directory / "nginx.conf"]
        if not bench.may_fork:
            bench.start(*command, "-g", "daemon off; master_process off;", port=self.port)
            return
        run(*bench.wrapper, *command, env=bench.environment() if shim else None,
            patience=SLOW if bench.wrapper else PATIENCE)  # fmt: skip
        bench.endings.append(self.stop)
        wait_until(lambda: listens(self.port), "nginx listens")

    @staticmethod
    def temporary():
        modules = run(NGINX, "-V")
        names = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        return [name for name in names if f"--without-http_{name}_module" not in modules]

    def server(self, name, leaf, more):
        certificate = "" if "ssl_certificate " in more else f"ssl_certificate {leaf.full};"
        key = "" if "ssl_certificate_key " in more else f"ssl_certificate_key {leaf.key};"
        return (
            f"  server {{ listen 127.0.0.1:{self.port} ssl; server_name {name};\n"
            f"    {certificate} {key} ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache off;\n"
            f"    ssl_session_tickets off; {more} }}\n"
        )

    def pid(self):
        return int((self.directory / "nginx.pid").read_text())

    def workers(self):
        children = pathlib.Path(f"/proc/{self.pid()}/task/{self.pid()}/children").read_text()
        return set(children.split())

    def reload(self):
        before = self.workers()
        # Not nginx -s: that is another nginx, which loads the certificates too, and asks for them.
        os.kill(self.pid(), signal.SIGHUP)
        wait_until(lambda: len(self.workers()) == 2 and not self.workers() & before, "new workers")

    def stop(self):
        pid = self.pid()
        os.kill(pid, signal.SIGQUIT)
        wait_until(lambda: has_ended(pid), "nginx's end")

    def check_log(self):
        log = self.error_log.read_text()
        check(not re.search(r"\[(warn|error|crit|alert|emerg)\]", log), log)


def has_ended(pid):
    # Nobody need be there to reap it: the first process of the root is this program's parent.
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def read(file):
    file.seek(0)
    return file.read().decode(errors="replace")


def free_port(udp=False):
    with socket.socket(type=socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port, udp=False):
    """Without a connection, which the first handshake must be. A name is an abstract socket's."""
    if port == AGENT:
        return f" {AGENT}\n" in pathlib.Path("/proc/net/unix").read_text()
    table = pathlib.Path("/proc/net/udp" if udp else "/proc/net/tcp").read_text()
    state = "07" if udp else "0A"
    return f"0100007F:{port:04X} 00000000:0000 {state}" in table


VERSIONS = ("-tls1_3", "-tls1_2")


def add_common_rows(name, start):
    for version in VERSIONS:

        @row(f"{name}: first handshake, TLS 1.{version[-1]}, stapled")
        def first_handshake(bench, version=version):
            port = start(bench, bench.issue())
            bench.check_stapled(port, version)
            bench.check_stapled(port, version)
            check(len(bench.authority.asked) == 1, f"asked {len(bench.authority.asked)} times")
            bench.check_log()

    @row(f"{name}: revoked, not stapled")
    def revoked(bench):
        port = start(bench, bench.issue(status="R"))
        for version in VERSIONS:
            bench.check_unstapled(port, version)
        log = bench.log.read_text()
        check("revoked" in log and log.count("\n") == 1, f"logged: {log}")


add_common_rows("s_server", lambda bench, leaf: bench.s_server(leaf))
add_common_rows("nginx", lambda bench, leaf: bench.nginx(leaf).port)
add_common_rows("Python", lambda bench, leaf: bench.python(leaf))
add_common_rows("side door", lambda bench, leaf: bench.side_door(leaf))


@row("s_server: DTLS")
def dtls(bench):
    port = bench.s_server(bench.issue(), "-dtls1_2", udp=True)
    bench.check_stapled(port, "-dtls1_2")
    bench.check_log()


@row("s_server: RSA and ECDSA")
def two_certificates(bench):
    other = bench.issue(kind="rsa")
    port = bench.s_server(bench.issue(), "-dcert", other.certificate, "-dkey", other.key)
    for kind, cipher in (("RSA", "AES128"), ("ECDSA", "AES128"), ("RSA", "AES256")):
        hash_size = {"AES128": 256, "AES256": 384}[cipher]
        suite = f"ECDHE-{kind}-{cipher}-GCM-SHA{hash_size}"
        bench.check_stapled(port, "-tls1_2", "-cipher", suite)
    check(len(bench.authority.asked) == 2, f"asked {len(bench.authority.asked)} times")
    bench.check_log()


@row("s_server: own staple left alone")
def own_staple(bench):
    leaf = bench.issue()
    file = bench.authority.response_file(leaf, days=20)
    wanted = re.search("Next Update: .*", run("openssl", "ocsp", "-respin", file, "-text",
                                              "-noverify"))  # fmt: skip
    port = bench.s_server(leaf, "-status", "-status_file", file)
    for version in VERSIONS:
        check(wanted.group() in bench.check_stapled(port, version), "stapled another")


@row("s_server: compressed certificate keeps the staple")
def compressed_certificate(bench):
    usage = run("openssl", "s_server", "-help")
    if "-cert_comp" not in usage:
        raise Absent
    port = bench.s_server(bench.issue(), "-cert_comp")
    bench.check_stapled(port, "-tls1_3")
    bench.check_log()


# The responses for a chain: what s_client calls it when each of them was checked.
CHECK_ALL = ("-tls1_3", "-ocsp_check_all")


def needs_multistapling(program):
    """3.6.0 has it, with a bug that the shim leaves alone."""
    if version_of(program) < (3, 6, 1):
        raise Absent


def chain_staples(bench, port, *options):
    """The serial numbers of the certificates that a client of TLS 1.3 sees stapled, in order."""
    output = bench.s_client(port, "-tls1_3", *options)
    return re.findall(r"Serial Number: ([0-9A-F]+)\n +Cert Status: good", output)


def wait_for_staples(bench, port, *certificates):
    """A handshake waits for no more than the leaf's response; a fork waits for all."""
    wanted = [certificate.serial for certificate in certificates]
    wait_until(lambda: chain_staples(bench, port) == wanted, f"staples for {wanted}")


def refuses(bench, port):
    """A client that wants a response for every certificate."""
    output = bench.s_client(port, *CHECK_ALL, status=None)
    return "Verify return code: 0 (ok)" not in output


def add_chain_rows(name, program, start, forks):
    @row(f"{name}: intermediates stapled")
    def intermediates(bench):
        needs_multistapling(program)
        upper = bench.intermediate()
        lower = bench.intermediate(upper)
        leaf = lower.issue()
        check(refuses(bench, start(bench, leaf, shim=False)), "stapled without the shim")
        port = start(bench, leaf)
        if not forks:
            wait_for_staples(bench, port, leaf, lower, upper)
        check(not refuses(bench, port), "refused all the same")
        stapled = chain_staples(bench, port)
        check(stapled == [leaf.serial, lower.serial, upper.serial], f"stapled {stapled}")
        bench.check_stapled(port, "-tls1_2")
        asked = [len(authority.asked) for authority in bench.authorities]
        check(asked == [1, 1, 1], f"asked {asked}")
        bench.check_log()


def s_server_with_chain(bench, leaf, *options, **more):
    return bench.s_server(leaf, "-cert_chain", leaf.chain, *options, **more)


def nginx_with_chain(bench, leaf, **more):
    return bench.nginx(leaf, **more).port


def side_door_with_chain(bench, leaf, shim=True):
    bench.settings = {} if shim else {"OCSPRELOAD": "off"}
    return bench.side_door(leaf)


add_chain_rows("s_server", "openssl", s_server_with_chain, forks=False)
add_chain_rows("nginx", NGINX, nginx_with_chain, forks=True)
add_chain_rows("side door", "openssl", side_door_with_chain, forks=False)


@row("s_server: revoked intermediate, not stapled")
def revoked_intermediate(bench):
    needs_multistapling("openssl")
    upper = bench.intermediate()
    lower = bench.intermediate(upper, status="R")
    leaf = lower.issue()
    port = s_server_with_chain(bench, leaf)
    wait_for_staples(bench, port, leaf, upper)
    wait_until(bench.log.read_text, "a word on the revocation")
    log = bench.log.read_text()
    check("revoked" in log and lower.serial in log and log.count("\n") == 1, f"logged: {log}")


@row("s_server: intermediate without responder")
def silent_intermediate(bench):
    needs_multistapling("openssl")
    upper = bench.intermediate()
    lower = bench.intermediate(upper, asks=False)
    leaf = lower.issue()
    port = s_server_with_chain(bench, leaf)
    wait_for_staples(bench, port, leaf, upper)
    check(not upper.asked, "asked for a certificate that names no responder")
    bench.check_log()


@row("s_server: intermediate whose responder is silent")
def unreachable_intermediate(bench):
    needs_multistapling("openssl")
    upper = bench.intermediate()
    with socket.socket() as silent:
        # It accepts, and says nothing: the first handshake must not wait for it.
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        upper.url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        lower = bench.intermediate(upper)
        leaf = lower.issue()
        port = s_server_with_chain(bench, leaf)
        check(leaf.serial in chain_staples(bench, port), "the leaf is not stapled")
        wait_for_staples(bench, port, leaf, upper)


@row("s_server: intermediates after HelloRetryRequest")
def hello_retry(bench):
    needs_multistapling("openssl")
    lower = bench.intermediate()
    leaf = lower.issue()
    port = s_server_with_chain(bench, leaf, "-groups", "P-384")
    wait_for_staples(bench, port, leaf, lower)
    retried = chain_staples(bench, port, "-groups", "P-256:P-384")
    check(retried == [leaf.serial, lower.serial], f"stapled {retried}")
    bench.check_log()


@row("nginx: reload keeps it")
def reload(bench):
    nginx = bench.nginx(bench.issue())
    bench.check_stapled(nginx.port)
    for _ in range(3):
        nginx.reload()
        for _ in range(8):
            bench.check_stapled(nginx.port)
    check(len(bench.authority.asked) == 1, f"asked {len(bench.authority.asked)} times")
    nginx.check_log()
    bench.check_log()


@row("nginx: second name (SNI)")
def second_name(bench):
    nginx = bench.nginx(bench.issue("one.example"), servers=[bench.issue("two.example")])
    for name in ("two.example", "one.example"):
        output = bench.check_stapled(nginx.port, "-servername", name, "-verify_hostname", name)
        check(f"CN = {name}" in output or f"CN={name}" in output, output)
    nginx.check_log()
    bench.check_log()


@row("nginx: certificate in a variable")
def variable_certificate(bench):
    leaf = bench.issue()
    # Workers read it, in every handshake.
    leaf.key.chmod(0o644)
    (bench.directory / "localhost.v.crt").symlink_to(leaf.certificate)
    (bench.directory / "localhost.v.key").symlink_to(leaf.key)
    nginx = bench.nginx(
        leaf,
        f"ssl_certificate {bench.directory}/$ssl_server_name.v.crt;"
        f"ssl_certificate_key {bench.directory}/$ssl_server_name.v.key;",
    )
    for version in VERSIONS:
        bench.check_stapled(nginx.port, "-servername", "localhost", version)
    nginx.check_log()


@row("nginx: own staple left alone")
def nginx_own_staple(bench):
    leaf = bench.issue()
    file = bench.authority.response_file(leaf, days=20)
    wanted = re.search("Next Update: .*", run("openssl", "ocsp", "-respin", file, "-text",
                                              "-noverify"))  # fmt: skip
    nginx = bench.nginx(leaf, f"ssl_stapling on; ssl_stapling_file {file};")
    for version in VERSIONS:
        check(wanted.group() in bench.check_stapled(nginx.port, version), "stapled another")
    nginx.check_log()


@row("side door: own staple left alone")
def side_door_own_staple(bench):
    leaf = bench.issue()
    file = bench.authority.response_file(leaf, days=20)
    wanted = re.search("Next Update: .*", run("openssl", "ocsp", "-respin", file, "-text",
                                              "-noverify"))  # fmt: skip
    port = bench.side_door(leaf, file)
    for version in (*VERSIONS, *VERSIONS):
        check(wanted.group() in bench.check_stapled(port, version), "stapled another")


@row("side door: own callback without a staple")
def side_door_own_callback(bench):
    port = bench.side_door(bench.issue(), "/dev/null")
    for version in (*VERSIONS, *VERSIONS):
        bench.check_stapled(port, version)
    bench.check_log()


@row("agent: fetches for those that may not")
def agent(bench):
    bench.agent()
    leaf = bench.intermediate().issue()
    ports = s_server_with_chain(bench, leaf), bench.python(leaf), bench.side_door(leaf)
    for port in (*ports, bench.nginx(leaf).port):
        for version in VERSIONS:
            bench.check_stapled(port, version)
    if version_of("openssl") >= (3, 6, 1):
        for port in ports:
            wait_for_staples(bench, port, leaf, leaf.issuer)
    asked = [len(authority.asked) for authority in bench.authorities]
    most = 1 if version_of("openssl") >= (3, 6, 1) or version_of(NGINX) >= (3, 6, 1) else 0
    check(asked == [most, 1], f"asked {asked}")
    bench.check_log()


@row("agent: knows the revoked one")
def agent_revoked(bench):
    bench.agent()
    leaf = bench.issue(status="R")
    port = bench.s_server(leaf)
    for version in VERSIONS:
        bench.check_unstapled(port, version)
    wait_until(lambda: "revoked" in bench.log.read_text(), "a word on the revocation")


@row("ocspctl: what it fetches is stapled")
def fetched(bench):
    leaf = bench.issue()
    check("good" in bench.tool("doctor", leaf.full), "the doctor finds fault")
    bench.tool("fetch", leaf.full)
    bench.authority.asked.clear()
    bench.settings = {"OCSPRELOAD_FETCH": "off"}
    port = bench.s_server(leaf)
    for version in VERSIONS:
        bench.check_stapled(port, version)
    check(not bench.authority.asked, "the responder was asked")
    check("good" in bench.tool("status", leaf.full), "the store has nothing")
    bench.check_log()


@row("ocspctl: judges as a client does")
def judged(bench):
    leaf, other, revoked = bench.issue(), bench.issue(), bench.issue(status="R")
    file = bench.authority.response_file(leaf, days=20)
    bench.tool("check", leaf.full, file)
    bench.tool("check", other.full, file, status=1)
    bench.tool("fetch", revoked.full, status=1)
    check("revoked" in bench.tool("doctor", revoked.full, status=1), "not a word of it")


class Host:
    """A run of host.py: what its client saw, one handshake after the other."""

    def __init__(self, bench, way, *files, **environment):
        self.bench = bench
        output = run(
            sys.executable, HERE / "host.py", libssl(which("openssl")), way, *files,
            # Whoever looks at what was freed is to fall over it.
            env={**bench.environment(), "MALLOC_PERTURB_": "165", **environment},
        )  # fmt: skip
        self.results = json.loads(output)

    def next(self):
        return self.results.pop(0)

    def check_next(self, *certificates):
        """Exactly these have a response, which is for them and says good."""
        responses = self.next()
        check(responses != "failed", "the handshake failed")
        check(len(responses) == len(certificates), f"{len(responses)} responses")
        for response, certificate in zip(responses, certificates):
            check(response or not certificate, "no response")
            check(certificate or not response, "a response")
            if certificate:
                self.check_response(response, certificate)

    def check_response(self, response, certificate):
        file = self.bench.directory / f"{next(_numbers)}.seen"
        file.write_bytes(base64.b64decode(response))
        issuer = certificate.issuer.certificate
        output = run("openssl", "ocsp", "-respin", file, "-issuer", issuer, "-cert",
                     certificate.certificate, "-no_nonce", "-CAfile",
                     self.bench.authority.certificate, "-verify_other", issuer,
                     "-trust_other")  # fmt: skip
        check("Response verify OK" in output and ": good" in output, output)

    def check_end(self):
        check(not self.results, f"{len(self.results)} more handshakes")
        self.bench.check_log()


def add_way(name):
    @row(f"functions: {name}")
    def way(bench):
        leaf = bench.issue()
        unstapled, other = bench.issue(usage="clientAuth"), bench.issue()
        settings = bench.directory / "openssl.cnf"
        settings.write_text(
            "openssl_conf = all\n[all]\nssl_conf = programs\n[programs]\nserver = server\n"
            f"[server]\nCertificate = {leaf.full}\nPrivateKey = {leaf.key}\n"
        )
        files = leaf.full, leaf.key, unstapled.full, unstapled.key, other.full, other.key
        environment = {"OPENSSL_CONF": str(settings)} if name.endswith("_config") else {}
        host = Host(bench, name, *files, **environment)
        host.check_next(leaf)
        host.check_next(leaf)
        host.check_end()


for _name in ("SSL_CONF_cmd", "SSL_CONF_cmd_argv", "SSL_CONF_CTX_free", "SSL_CTX_config", "SSL_config", "cert_cb",
              "client_hello_cb", "SSL_set_SSL_CTX", "SSL_dup", "only_the_handshake_reveals",
              "renegotiation"):  # fmt: skip
    add_way(_name)


def with_chain(leaf):
    """The certificates that are stapled for with TLS 1.3."""
    can = version_of("openssl") >= (3, 6, 1)
    return [leaf, leaf.issuer] if can else [leaf]


def add_chain_way(name):
    @row(f"functions: {name}")
    def chain(bench):
        leaf = bench.intermediate().issue()
        host = Host(bench, name, leaf.certificate, leaf.key, leaf.chain)
        host.check_next(*with_chain(leaf))
        host.check_next(leaf)
        host.check_end()


for _name in ("chain_before", "chain_after", "chain_inside"):
    add_chain_way(_name)


@row("functions: a chain that is loaded over another")
def reload_in_place(bench):
    leaf, other = bench.intermediate().issue(), bench.intermediate().issue()
    host = Host(bench, "reload_in_place", leaf.full, leaf.key, other.full, other.key)
    host.check_next(*with_chain(leaf))
    host.check_next(*with_chain(other))
    host.check_end()


@row("functions: SSL_clear")
def clear(bench):
    leaf = bench.issue()
    host = Host(bench, "clear", leaf.full, leaf.key)
    for _ in range(6):
        host.check_next(leaf)
    host.check_end()


@row("functions: resumption")
def resumption(bench):
    leaf = bench.issue()
    host = Host(bench, "resumption", leaf.full, leaf.key)
    for _ in VERSIONS:
        host.check_next(leaf)
        host.check_next()
    host.check_end()


@row("functions: PSK")
def psk(bench):
    leaf = bench.issue()
    host = Host(bench, "psk", leaf.full, leaf.key)
    host.check_next()
    host.check_next()
    host.check_end()


@row("functions: QUIC")
def quic(bench):
    if version_of("openssl") < (3, 5):
        raise Absent
    leaf = bench.intermediate().issue()
    host = Host(bench, "quic", leaf.full, leaf.key)
    # The second comes after the intermediate's response, or not.
    for responses in host.results:
        check(responses != "failed", "the handshake failed")
        check(len(responses) in (1, len(with_chain(leaf))), f"{len(responses)} responses")
        for response, certificate in zip(responses, with_chain(leaf)):
            host.check_response(response, certificate)
    check(len(host.results) == 2, f"{len(host.results)} handshakes")
    bench.check_log()


@row("functions: a status callback of its own")
def own_callback(bench):
    leaf = bench.issue()
    file = bench.authority.response_file(leaf, days=20)
    own = base64.b64encode(file.read_bytes()).decode()
    host = Host(bench, "own_callback", leaf.full, leaf.key, file)
    for _ in ("set first", "loaded first"):
        for _ in VERSIONS:
            responses = host.next()
            check(responses == [own], "not the host's own")
        for _ in ("nothing", "none"):
            for _ in VERSIONS:
                host.check_next(leaf)
        for _ in VERSIONS:
            check(host.next() == "failed", "what the host forbids went on")
    for _ in VERSIONS:
        host.check_next(leaf)
    host.check_end()


@row("functions: a client's status callback")
def client_callback(bench):
    leaf = bench.issue()
    host = Host(bench, "client_callback", leaf.full, leaf.key)
    host.check_next(leaf)
    check(host.next() == "failed", "what the client refused went on")
    host.check_end()


@row("s_client: client certificate left alone")
def client_certificate(bench):
    client = bench.issue("client", usage="clientAuth,serverAuth")
    options = ["-Verify", "1", "-verify_return_error", "-CAfile", bench.authority.certificate]
    port = bench.s_server(bench.issue(), *options, shim=False)
    for version in VERSIONS:
        output = bench.s_client(port, version, "-cert", client.certificate, "-key", client.key,
                                shim=True)  # fmt: skip
        check("Verify return code: 0 (ok)" in output, output)
    check(not bench.authority.asked, "the responder was asked")
    bench.check_log()


@row("Python: client certificate left alone")
def python_client_certificate(bench):
    client = bench.issue("client", usage="clientAuth,serverAuth")
    nginx = bench.nginx(
        bench.issue(),
        f"ssl_verify_client on; ssl_client_certificate {bench.authority.certificate};",
        shim=False,
    )
    text = f"""
import socket, ssl
# What older Pythons make by default may be a server's as well.
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.load_verify_locations({str(bench.authority.certificate)!r})
context.load_cert_chain({str(client.pem)!r})
for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
    context.minimum_version = context.maximum_version = version
    raw = socket.create_connection(("127.0.0.1", {nginx.port}))
    with context.wrap_socket(raw, server_hostname="localhost") as tls:
        tls.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        assert b"200 OK" in tls.recv(4096)
"""
    run(sys.executable, "-c", text, env=bench.environment())
    check(not bench.authority.asked, "the responder was asked")
    nginx.check_log()
    bench.check_log()


def linked_with(name, program):
    return re.search(rf"=> (\S*/{name}\.so\S*)", run("ldd", program)).group(1)


def libssl(program):
    return linked_with("libssl", program)


def version_of(program):
    """1.1.1w is the only one with a letter."""
    return tuple(map(int, re.findall(r"\d+", openssl_version(which(program)))))


def openssl_version(program):
    """Of the libssl that a program is linked with, by the text that its libcrypto has."""
    library = ctypes.CDLL(linked_with("libcrypto", program))
    library.OpenSSL_version.restype = ctypes.c_char_p
    return library.OpenSSL_version(0).decode().split()[1]


def two_versions(bench):
    """The program's libssl and that of a module, each with the other's names."""
    module = RELEASE / "module.so"
    if version_of("openssl") < (3,):
        raise Absent
    leaf, other = bench.issue(), bench.issue()
    ports = free_port(), free_port()
    text = f"""
import ctypes, socket, ssl
module = ctypes.CDLL({str(module)!r})
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain({str(leaf.pem)!r})
listeners = [socket.create_server(("127.0.0.1", port)) for port in {ports}]
while True:
    raw, _ = listeners[0].accept()
    with context.wrap_socket(raw, server_side=True) as tls:
        tls.recv(16)
        tls.unwrap().close()
    raw, _ = listeners[1].accept()
    assert module.serve(raw.fileno(), {str(other.full).encode()!r}, {str(other.key).encode()!r})
    raw.close()
"""
    bench.start(sys.executable, "-c", text, port=ports[1])
    for version in (*VERSIONS, *VERSIONS):
        bench.check_stapled(ports[0], version)
        bench.check_stapled(ports[1], version)
    check(len(bench.authority.asked) == 2, f"asked {len(bench.authority.asked)} times")
    bench.check_log()


ROWS.append(("two versions of libssl in one process", two_versions))


HANDSHAKES = 1000
CLIENTS = 4  # at once; what waits for one works for another


def memcheck(bench, leaks):
    # What the thread of a parent held counts as lost in its child, though that never runs it.
    bench.wrapper = [
        "valgrind", "--trace-children=yes", f"--leak-check={'full' if leaks else 'no'}",
        "--show-leak-kinds=definite", "--num-callers=30", "--fullpath-after=",
        f"--log-file={bench.directory}/memcheck.%p",
    ]  # fmt: skip
    # A frame shows its source where that is known, and its library where not.
    return r"^==\d+== ?", ("/shim/", "/fetcher/", "libocspreload")


def thread_sanitizer(bench, **_):
    old = pathlib.Path("/usr/lib/x86_64-linux-gnu/libtsan.so.0")
    directory, runtime = ("tsan-old", old) if old.exists() else ("tsan", old.with_suffix(".2"))
    bench.preload = f"{runtime} {RELEASE / directory / 'libocspreload.so'}"
    bench.may_fork = False
    options = (
        "die_after_fork=0:report_signal_unsafe=0:ignore_noninstrumented_modules=1:"
        f"atexit_sleep_ms=50:exitcode=0:log_path={bench.directory}/tsan"
    )
    # Its shadow has no room for all that address randomisation does.
    bench.wrapper = ["env", "-u", "LD_PRELOAD", f"TSAN_OPTIONS={options}", "setarch", "-R", "env",
                     f"LD_PRELOAD={bench.preload}"]  # fmt: skip
    return "", ("WARNING: ThreadSanitizer", "FATAL: ThreadSanitizer")


def is_watched():
    """Some process has the tool inside; nobody else's are here."""
    maps = ""
    for file in pathlib.Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            maps += file.read_text()
    return "/release/tsan" in maps or "memcheck-amd64" in maps or "vgpreload_memcheck" in maps


def findings(bench, kind, prefix, names):
    """The paragraphs of a tool's logs that name the shim."""
    found = []
    for log in bench.directory.glob(f"{kind}.*"):
        text = re.sub(prefix, "", log.read_text(errors="replace"), flags=re.MULTILINE)
        found += [part for part in text.split("\n\n") if any(name in part for name in names)]
    return found


def count_stapled(port):
    command = [sys.executable, HERE / "host.py", libssl(which("openssl")), "client", port]

    def shake(_):
        return json.loads(run(*command, HANDSHAKES // CLIENTS, patience=SLOW))[0]

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        return sum(pool.map(shake, range(CLIENTS)))


def is_summed_up(bench):
    """Every process has its log, which ends so; TSan writes one only if it has something to say."""
    logs = [log.read_text(errors="replace") for log in bench.directory.glob("memcheck.*")]
    return logs and all("ERROR SUMMARY" in log for log in logs)


def add_thorough_rows(tool, kind, watch):
    for name, start in (("s_server", s_server_with_chain), ("nginx", nginx_with_chain)):

        @row(f"{name}: {HANDSHAKES} handshakes under {tool}")
        def thorough(bench, name=name, start=start):
            prefix, names = watch(bench, leaks=name == "s_server")
            leaf = bench.intermediate().issue()
            port = start(bench, leaf)
            stapled = count_stapled(port)
            check(stapled == HANDSHAKES, f"stapled: {stapled}")
            check(is_watched(), "nobody watches")
            while bench.endings:
                bench.endings.pop()()
            found = findings(bench, kind, prefix, names)
            check(not found, "\n\n".join(found))
            check(kind != "memcheck" or is_summed_up(bench), "memcheck did not come to its end")
            bench.check_log()


add_thorough_rows("memcheck", "memcheck", memcheck)
add_thorough_rows("ThreadSanitizer", "tsan", thread_sanitizer)


def print_row(name, result):
    print(json.dumps([name, result]), flush=True)


def which(program):
    return run("sh", "-c", f"command -v {program}").strip()


def main():
    library = sys.argv[1]
    only = sys.argv[2] if len(sys.argv) > 2 else ""
    import _ssl  # pylint: disable=import-outside-toplevel

    print_row("OpenSSL of s_server", openssl_version(which("openssl")))
    print_row("OpenSSL of nginx", openssl_version(which(NGINX)))
    print_row("OpenSSL of Python", openssl_version(_ssl.__file__))
    for number, (name, function) in enumerate(ROWS):
        if only not in name:
            continue
        directory = pathlib.Path(f"/tmp/{number}")
        directory.mkdir()
        bench = Bench(library, directory)
        result = "ok"
        try:
            function(bench)
        except Absent:
            result = "-"
        except Exception:  # pylint: disable=broad-except
            result = traceback.format_exc() + bench.log.read_text()
        try:
            bench.close()
        except Exception:  # pylint: disable=broad-except
            result = traceback.format_exc() if result == "ok" else result
        print_row(name, result)


main()
