# SPDX-License-Identifier: MIT
"""Servers and proxies of the web, and the languages' own servers; see daemons.py."""

import http.server
import re
import shutil
import signal
import threading

from client import Talk
from daemons import Daemon
from servers import HERE, children
from support import wait_until

HELLO = b"hello"


class _Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(HELLO)))
        self.end_headers()
        self.wfile.write(HELLO)

    def log_message(self, *arguments):
        pass


class Proxy(Daemon):
    """Has a backend that says hello."""

    def __init__(self, directory, shim, leaf, **options):
        self.backend = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hello)
        self.backend.daemon_threads = True
        self.backend_port = self.backend.server_address[1]
        threading.Thread(target=self.backend.serve_forever, daemon=True).start()
        super().__init__(directory, shim, leaf, **options)

    def stop(self, how=None):
        if self.backend:
            self.backend.shutdown()
            self.backend.server_close()
            self.backend = None
        return super().stop(how)


class Hitch(Proxy):
    """A master as its own user, and workers; its own fetcher of responses is off."""

    is_steady = False
    program = "hitch"
    has_store = False  # it is no longer root when the response comes

    def configure(self):
        self.write(
            "hitch.conf",
            f'frontend = "[127.0.0.1]:{self.port}"\nbackend = "[127.0.0.1]:{self.backend_port}"\n'
            f'pem-file = "{self.both}"\nuser = "_hitch"\ngroup = "_hitch"\nworkers = 2\n'
            'daemon = off\nsyslog = off\nocsp-dir = ""\nlog-level = 1\n',
        )

    def renew(self, leaf):
        super().renew(leaf)
        shutil.chown(self.both, "_hitch")

    def reload(self):
        """Old workers end at once, with what they have in hand; so they do without the shim."""
        old = set(children(self.pid))
        super().reload()
        wait_until(lambda: children(self.pid) and not old & set(children(self.pid)))

    def command(self):
        return ["hitch", f"--config={self.directory}/hitch.conf"]


class H2o(Daemon):
    """
    A master, in Perl, that starts another server at a reload. It has a callback of its own always;
    its own fetcher is off.
    """

    program = "h2o"
    keeps_cache = False
    shares_cache = False  # what becomes the master has loaded it, too
    has_store = False  # it is no longer root when the response comes

    def configure(self):
        (self.directory / "www").mkdir()
        (self.directory / "www" / "index.html").write_text("hello")
        self.write(
            "h2o.conf",
            "user: www-data\nnum-threads: 2\n"
            f"listen:\n  host: 127.0.0.1\n  port: {self.port}\n  ssl:\n"
            f"    certificate-file: {self.certificate}\n    key-file: {self.key}\n"
            "    ocsp-update-interval: 0\n    neverbleed: OFF\n"
            f"hosts:\n  default:\n    paths:\n      /:\n        file.dir: {self.directory}/www\n",
        )

    def reload(self):
        started = self._started()
        super().reload()
        wait_until(lambda: self._started() > started, what=self.log)

    def _started(self):
        return self.log().count("starting new worker")

    def command(self):
        return ["h2o", "-m", "master", "-c", str(self.directory / "h2o.conf")]


class Nghttpx(Proxy):
    """It has a callback of its own always; its own fetcher is off."""

    program = "nghttpx"
    reload_signal = signal.SIGHUP
    keeps_cache = False  # a new process loads the certificate
    exit_status = -signal.SIGTERM

    def configure(self):
        self.write(
            "nghttpx.conf",
            f"frontend=127.0.0.1,{self.port}\nbackend=127.0.0.1,{self.backend_port}\n"
            f"private-key-file={self.key}\ncertificate-file={self.certificate}\n"
            f"workers=1\nno-ocsp=yes\nerrorlog-file={self.directory}/error.log\n"
            "accesslog-file=/dev/null\n",
        )

    def wait_ready(self):
        """A signal before that is its end, without the shim, too."""
        super().wait_ready()
        wait_until(lambda: self._started() >= 1, 60, what=self.log)

    def _started(self):
        return self.log().count("Created worker thread")

    def reload(self):
        started = self._started()
        super().reload()
        wait_until(lambda: self._started() > started, what=self.log)

    def trouble(self):
        """Which of its processes sees the other end first is a matter of moments."""
        return {line for line in super().trouble() if "IPC socket is closed" not in line}

    def command(self):
        return ["nghttpx", f"--conf={self.directory}/nghttpx.conf"]


class Script(Daemon):
    """A server that is a program in a language, and loads its certificate again on SIGHUP."""

    script = None

    def command(self):
        files = [str(self.certificate), str(self.key)]
        return [self.program, str(HERE / "hosts" / self.script), str(self.port), *files]


class PythonServer(Script):
    program = "/usr/bin/python3"
    script = "python_server.py"
    exit_status = -signal.SIGTERM

    def command(self):
        return [self.program, str(HERE / "hosts" / self.script), str(self.port), str(self.both)]


class Asyncio(Script):
    program = "/usr/bin/python3"
    script = "asyncio_server.py"
    exit_status = -signal.SIGTERM


class Uvicorn(Daemon):
    program = "/usr/bin/python3"
    reload_signal = None

    def configure(self):
        self.write(
            "application.py",
            "async def application(scope, receive, send):\n"
            "    if scope['type'] != 'http':\n        return\n"
            "    head = {'type': 'http.response.start', 'status': 200,\n"
            "            'headers': [(b'content-length', b'5')]}\n"
            "    await send(head)\n"
            "    await send({'type': 'http.response.body', 'body': b'hello'})\n",
        )

    def command(self):
        return ["/usr/bin/python3", "-m", "uvicorn", "--host", "127.0.0.1"] + [
            *("--port", str(self.port), "--lifespan", "off", "--app-dir", str(self.directory)),
            *("--ssl-certfile", str(self.certificate), "--ssl-keyfile", str(self.key)),
            "application:application",
        ]


class Twisted(Daemon):
    """By pyOpenSSL."""

    program = "twistd3"
    reload_signal = None
    exit_status = -signal.SIGTERM
    log_files = ("twistd.log",)

    def configure(self):
        (self.directory / "www").mkdir()
        (self.directory / "www" / "index.html").write_text("hello")

    def command(self):
        files = f"privateKey={self.key}:certKey={self.certificate}:extraCertChain={self.chain}"
        return ["/usr/bin/twistd3", "--nodaemon", "--pidfile=", "web"] + [
            *("--listen", f"ssl:{self.port}:interface=127.0.0.1:{files}"),
            *("--path", str(self.directory / "www")),
        ]


class Puma(Daemon):
    """Ruby: the chain comes before the certificate, the workers are forked."""

    program = "puma"
    reload_signal = signal.SIGUSR2
    keeps_cache = False  # it executes itself
    exit_status = -signal.SIGTERM
    _WORKERS = 2

    def configure(self):
        self.write("config.ru", 'run ->(env) { [200, {"content-length" => "5"}, ["hello"]] }\n')

    def wait_ready(self):
        super().wait_ready()
        wait_until(lambda: self._booted() >= self._WORKERS, 60, what=self.log)

    def _booted(self):
        return len(re.findall(r" - Worker \d+ .*booted", self.log()))

    def reload(self):
        booted = self._booted()
        super().reload()
        wait_until(lambda: self._booted() >= booted + self._WORKERS, 60, what=self.log)

    def command(self):
        files = f"key={self.key}&cert={self.certificate}"
        return ["puma", "--dir", str(self.directory), "--workers", str(self._WORKERS), "--preload"] + [
            *("--bind", f"ssl://127.0.0.1:{self.port}?{files}", "config.ru")
        ]


class Perl(Script):
    """IO::Socket::SSL; a process for each connection."""

    program = "/usr/bin/perl"
    script = "perl_server.pl"
    exit_status = -signal.SIGTERM


class Nodejs(Script):
    """Debian's has its OpenSSL outside; what others call by that name may have it inside."""

    program = "/usr/bin/node"
    script = "node_server.js"
    exit_status = -signal.SIGTERM


class SServer(Daemon):
    program = "openssl"
    reload_signal = None
    exit_status = -signal.SIGTERM

    def command(self):
        files = [*("-cert", str(self.certificate)), *("-key", str(self.key))]
        files += ["-cert_chain", str(self.chain)]
        return ["openssl", "s_server", "-accept", f"127.0.0.1:{self.port}", "-www", *files]


class Socat(Daemon):
    program = "socat"
    reload_signal = None
    exit_status = 143
    # Its children load nothing again.

    def command(self):
        listen = f"OPENSSL-LISTEN:{self.port},bind=127.0.0.1,reuseaddr,fork,verify=0"
        return ["socat", f"{listen},cert={self.both}", "SYSTEM:read line; echo hello"]


class Ncat(Daemon):
    program = "ncat"
    reload_signal = None
    exit_status = -signal.SIGTERM
    talk = Talk(request=b"GET /\r\n", end=b"hello\n")

    def command(self):
        files = ["--ssl-cert", str(self.certificate), "--ssl-key", str(self.key)]
        return ["ncat", "--ssl", *files, "-l", "-k", "127.0.0.1", str(self.port)] + [
            *("--sh-exec", "read line; echo hello")
        ]


KINDS = [
    Hitch,
    H2o,
    Nghttpx,
    PythonServer,
    Asyncio,
    Uvicorn,
    Twisted,
    Puma,
    Perl,
    Nodejs,
    SServer,
    Socat,
    Ncat,
]
