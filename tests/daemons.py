# SPDX-License-Identifier: MIT
"""
Debian's own servers, in Debian's own model of processes and users, but with configuration, data
and pid files in a directory of the test.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import socketserver
import subprocess
import sys
import threading

from client import Talk, handshake
from servers import (
    HERE,
    PLAIN_ENVIRONMENT,
    Server,
    children,
    end_tree,
    is_alive,
    send_signal,
    threads,
)
from support import wait_until

TROUBLE = re.compile(
    r"error|warn|fatal|crit|alert|emerg|panic|fail|assert|signal|cannot|could not|denied", re.I
)

# How a client leaves is a matter of moments.
CLIENT = re.compile(r"client|eof while reading|connection reset", re.I)


def is_ready_for(pid, how):
    """False if the signal would be the end of the process."""
    for status in pathlib.Path(f"/proc/{pid}/task").glob("*/status"):
        try:
            text = status.read_text()
        except OSError:  # it has just ended
            continue
        caught, blocked = (
            int(re.search(rf"^{name}:\s+(\w+)$", text, re.MULTILINE).group(1), 16)
            for name in ("SigCgt", "SigBlk")
        )
        # The library's own thread, and for a moment who makes it, blocks every signal, as no
        # server does, and says nothing of the server's readiness.
        if blocked >> (signal.SIGSEGV - 1) & 1:
            blocked = 0
        if (caught | blocked) >> (how - 1) & 1:
            return True
    return False


def is_open(port):
    """True if somebody listens; nobody has to be connected to, and none notices."""
    entry = f": 0100007F:{port:04X} 00000000:0000 0A "
    return entry in pathlib.Path("/proc/net/tcp").read_text()


def waits_for_connections(pid):
    """True if its first thread sleeps in epoll, poll or accept; for numbers see syscall(2)."""
    calls = {"x86_64": ("232", "281", "7", "271", "43", "288"), "aarch64": ("22", "73", "202", "242")}
    try:
        return pathlib.Path(f"/proc/{pid}/syscall").read_text().split()[0] in calls[os.uname().machine]
    except OSError:
        return False


class Daemon(Server):
    """
    A server with one certificate, in files of its own that renew() replaces. Where the command that
    starts it returns at once, pid_file tells which process stayed.
    """

    talk = Talk()
    pid_file = None  # a name in the directory
    user = None  # who starts it, if not root
    reload_signal = signal.SIGHUP  # None where nothing makes it load a renewed certificate
    needs_reload = True  # if False, it loads the certificate for each connection
    reloads = 3  # in a row, where they are tested
    stop_signal = signal.SIGTERM
    exit_status = 0
    program = None  # without which there is nothing to test
    runs_as = None  # whom the store belongs to, if not root or user
    has_store = True  # within reach of the process that fetches
    keeps_cache = True  # over a reload
    is_steady = True  # no connection is refused or cut off by a reload
    shares_cache = True  # all its processes descend from one that loaded the certificate
    logs_to_stdout = True  # some do
    log_files = ("error.log",)

    def __init__(self, directory, shim, leaf, **options):
        super().__init__(directory, shim, **options)
        self.certificate = directory / "tls.crt"
        self.key = directory / "tls.key"
        self.both = directory / "tls.pem"
        self.chain = directory / "chain.crt"
        self.renew(leaf)
        if self.user:
            self._wrapper += ["setpriv", "--reuid", self.user, "--regid", self.user]
            self._wrapper += ["--clear-groups"]
        self.configure()
        if self.user:
            for path in [directory, *directory.rglob("*")]:
                shutil.chown(path, self.user, self.user)

    def renew(self, leaf):
        """Takes effect with the next reload."""
        for path, source in (
            (self.certificate, leaf.chain_file),
            (self.key, leaf.key_file),
            (self.both, leaf.pem_file),
            (self.chain, leaf.authority.file),
        ):
            path.write_bytes(source.read_bytes())
            path.chmod(0o600 if path in (self.key, self.both) else 0o644)
            if self.user:
                shutil.chown(path, self.user, self.user)

    def configure(self):
        """Writes the configuration."""

    def write(self, name, text):
        path = self.directory / name
        path.write_text(text)
        return path

    @property
    def pid(self):
        if self.pid_file:
            return int((self.directory / self.pid_file).read_text())
        return super().pid

    def start(self):
        super().start()
        if self.pid_file:
            assert self.process.wait(60) == 0, self.log()
            wait_until(self._has_pid, what="there is a pid file")

    def run(self, *command):
        """Another program of the server's, that has to succeed."""
        subprocess.run(
            command,
            env=PLAIN_ENVIRONMENT,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=60,
        )

    def _has_pid(self):
        with contextlib.suppress(OSError, ValueError):
            return self.pid

    def reload(self):
        if not self.needs_reload:
            return
        # Many a server listens well before it knows what to do with a signal.
        wait_until(lambda: is_ready_for(self.pid, self.reload_signal), what=self.log)
        send_signal(self.pid, self.reload_signal)

    def handshake(self, **options):
        return handshake(self.port, talk=self.talk, **options)

    def stop(self, how=None):
        how = how or self.stop_signal
        if self.pid_file and self._has_pid():
            end_tree(self.pid, how)
            (self.directory / self.pid_file).unlink(missing_ok=True)
        return super().stop(how)

    def log(self):
        text = super().log()
        for name in self.log_files:
            path = self.directory / name
            if path.exists():
                text += path.read_text(errors="replace")
        return text

    def trouble(self):
        """The kinds of trouble that the server itself has logged, without numbers and names."""
        lines = (line for line in self.log().splitlines() if "ocspreload[" not in line)
        return {
            re.sub(r"0x[0-9a-f]+|\d+|" + re.escape(str(self.directory)), "", line)
            for line in lines
            if TROUBLE.search(line) and not CLIENT.search(line)
        }


class Nginx(Daemon):
    """One site as it is; what is special about nginx is tested with servers.Nginx."""

    program = "nginx"
    pid_file = "nginx.pid"

    def configure(self):
        paths = "".join(
            f"{name}_temp_path {self.directory}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        self.write(
            "nginx.conf",
            f"user www-data;\nworker_processes 4;\npid {self.directory}/nginx.pid;\n"
            f"events {{ worker_connections 256; }}\nhttp {{\naccess_log off;\n{paths}\n"
            "ssl_protocols TLSv1.2 TLSv1.3;\n"
            f"server {{\nlisten 127.0.0.1:{self.port} ssl;\nssl_certificate {self.certificate};\n"
            f"ssl_certificate_key {self.key};\nlocation / {{ return 200 hello; }}\n}}\n}}\n",
        )

    def command(self):
        error_log = str(self.directory / "error.log")
        return ["nginx", "-c", str(self.directory / "nginx.conf"), "-e", error_log]


class Apache(Daemon):
    """As apache2ctl starts it."""

    program = "apache2"
    mpm = None
    pid_file = "apache2.pid"
    reload_signal = signal.SIGUSR1  # graceful

    def configure(self):
        modules = "/usr/lib/apache2/modules"
        (self.directory / "index.html").write_text("hello")
        self.write(
            "apache2.conf",
            f"LoadModule mpm_{self.mpm}_module {modules}/mod_mpm_{self.mpm}.so\n"
            f"LoadModule authz_core_module {modules}/mod_authz_core.so\n"
            f"LoadModule socache_shmcb_module {modules}/mod_socache_shmcb.so\n"
            f"LoadModule ssl_module {modules}/mod_ssl.so\n"
            f"ServerName localhost\nServerRoot {self.directory}\n"
            f"DefaultRuntimeDir {self.directory}\nPidFile {self.pid_file}\n"
            "User www-data\nGroup www-data\nStartServers 2\n"
            f"ErrorLog {self.directory}/error.log\nListen 127.0.0.1:{self.port}\n"
            f"SSLSessionCache shmcb:{self.directory}/cache(512000)\n"
            f"DocumentRoot {self.directory}\n"
            f"<VirtualHost *:{self.port}>\nSSLEngine on\n"
            f"SSLCertificateFile {self.certificate}\nSSLCertificateKeyFile {self.key}\n"
            "</VirtualHost>\n",
        )

    def command(self):
        return ["apache2", "-d", str(self.directory), "-f", "apache2.conf", "-k", "start"]


class ApachePrefork(Apache):
    mpm = "prefork"


class ApacheEvent(Apache):
    mpm = "event"


class Haproxy(Daemon):
    """Master and worker; the worker is chrooted and may have no more processes."""

    program = "haproxy"
    keeps_cache = False  # the master executes itself
    reload_signal = signal.SIGUSR2

    def configure(self):
        (self.directory / "empty").mkdir()
        self.write(
            "haproxy.cfg",
            f"global\n chroot {self.directory}/empty\n user haproxy\n group haproxy\n"
            "defaults\n mode http\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n"
            f"frontend tls\n bind 127.0.0.1:{self.port} ssl crt {self.both}\n"
            " http-request return status 200 content-type text/plain string hello\n",
        )

    def wait_ready(self):
        """Until the master has executed itself: a signal before that is lost, or its end."""
        super().wait_ready()
        wait_until(self._master_waits, what=self.log)

    def _master_waits(self):
        process = pathlib.Path(f"/proc/{self.pid}")
        if b"HAPROXY_MWORKER_WAIT_ONLY=1" not in (process / "environ").read_bytes():
            return False
        status = (process / "status").read_text()
        blocked, caught = (
            int(re.search(rf"{name}:\s+(\w+)", status).group(1), 16) for name in ("SigBlk", "SigCgt")
        )
        mask = 1 << (signal.SIGUSR2 - 1) | 1 << (signal.SIGTERM - 1)
        return caught & mask == mask and not blocked & mask

    def reload(self):
        before = self.log().count("Reloading")

        def is_heard():
            if self.log().count("Reloading") > before:
                return True
            send_signal(self.pid, self.reload_signal)
            return False

        wait_until(is_heard, interval=0.5, what=self.log)

    def command(self):
        return ["haproxy", "-W", "-f", str(self.directory / "haproxy.cfg")]


class Lighttpd(Daemon):
    program = "lighttpd"
    stop_signal = signal.SIGINT  # graceful; after SIGTERM its exit status is a matter of moments
    reload_signal = signal.SIGUSR1
    runs_as = "www-data"

    def configure(self):
        (self.directory / "www").mkdir()
        (self.directory / "www" / "index.html").write_text("hello")
        # Opened before root is given up, and again after.
        shutil.chown(self.directory, "www-data")
        self.write(
            "lighttpd.conf",
            'server.modules = ( "mod_openssl" )\n'
            f'server.document-root = "{self.directory}/www"\nserver.port = {self.port}\n'
            'server.bind = "127.0.0.1"\nindex-file.names = ( "index.html" )\n'
            'server.username = "www-data"\nserver.groupname = "www-data"\n'
            f'server.errorlog = "{self.directory}/error.log"\n'
            f'ssl.engine = "enable"\nssl.pemfile = "{self.certificate}"\n'
            f'ssl.privkey = "{self.key}"\n',
        )

    def renew(self, leaf):
        super().renew(leaf)
        shutil.chown(self.key, "www-data")  # read again after root was given up

    def command(self):
        return ["lighttpd", "-D", "-f", str(self.directory / "lighttpd.conf")]


class _Greeter(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"hello")
        self.request.recv(1000)


class Stunnel(Daemon):
    """Daemonised, and no longer root."""

    program = "stunnel4"
    pid_file = "run/stunnel.pid"
    log_files = ("run/stunnel.log",)
    jail = False
    has_store = False  # it is no longer root when the response comes

    def configure(self):
        run = self.directory / "run"
        run.mkdir()
        shutil.chown(run, "stunnel4", "stunnel4")
        self._backend = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Greeter)
        self._backend.daemon_threads = True
        threading.Thread(target=self._backend.serve_forever, daemon=True).start()
        chroot = f"chroot = {run}\n" if self.jail else ""
        inside = "" if self.jail else run
        self.write(
            "stunnel.conf",
            f"{chroot}setuid = stunnel4\nsetgid = stunnel4\npid = {inside}/stunnel.pid\n"
            f"output = {inside}/stunnel.log\ndebug = notice\n"
            f"[hello]\naccept = 127.0.0.1:{self.port}\n"
            f"connect = 127.0.0.1:{self._backend.server_address[1]}\n"
            f"cert = {self.certificate}\nkey = {self.key}\n",
        )

    def renew(self, leaf):
        super().renew(leaf)
        shutil.chown(self.key, "stunnel4")  # read again after root was given up

    def reload(self):
        """Between the old sockets and the new ones it listens to none."""
        ready = self.log().count("Configuration successful")
        super().reload()
        wait_until(lambda: self.log().count("Configuration successful") > ready)

    def command(self):
        return ["stunnel4", str(self.directory / "stunnel.conf")]

    def stop(self, how=None):
        self._backend.shutdown()
        self._backend.server_close()
        return super().stop(how)


class StunnelInJail(Stunnel):
    """Chrooted as well, where it finds neither its configuration nor its certificate again."""

    jail = True
    reload_signal = None


class StunnelOfInetd(Stunnel):
    """A process for each connection, that loads the certificate and stays root."""

    pid_file = None
    needs_reload = False
    has_store = True
    keeps_cache = False
    shares_cache = False
    exit_status = -signal.SIGTERM
    log_files = ("run/stunnel.log",)

    def reload(self):
        Daemon.reload(self)

    def configure(self):
        super().configure()
        self.write(
            "stunnel.conf",
            f"output = {self.directory}/run/stunnel.log\ndebug = notice\nsyslog = no\n"
            f"connect = 127.0.0.1:{self._backend.server_address[1]}\n"
            f"cert = {self.certificate}\nkey = {self.key}\n",
        )

    def renew(self, leaf):
        Daemon.renew(self, leaf)

    def is_listening(self):
        """A process for whoever looks would load the certificate, and ask, as well."""
        return is_open(self.port)

    def command(self):
        inetd = [sys.executable, str(HERE / "hosts" / "inetd.py"), str(self.port)]
        return inetd + ["/usr/bin/stunnel4", str(self.directory / "stunnel.conf")]


class Postgresql(Daemon):
    """A process for each connection."""

    program = "pg_ctlcluster"
    BIN = max(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), default=None)
    user = "postgres"
    stop_signal = signal.SIGINT  # "fast"
    # The version, a user and a database, and goodbye.
    _STARTUP = b"\0\3\0\0user\0postgres\0database\0postgres\0\0"
    talk = Talk(
        opening=((b"\0\0\0\x08\x04\xd2\x16\x2f", b"S"),),
        request=(len(_STARTUP) + 4).to_bytes(4, "big") + _STARTUP + b"X\0\0\0\4",
    )

    def configure(self):
        data = self.directory / "data"
        shutil.chown(self.directory, self.user)
        self.run(
            *("setpriv", "--reuid", self.user, "--regid", self.user, "--clear-groups"),
            *(self.BIN / "initdb", "-D", data, "-A", "trust", "--no-sync", "--no-locale"),
        )

    def command(self):
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.directory,
            "ssl": "on",
            "ssl_cert_file": self.certificate,
            "ssl_key_file": self.key,
            "fsync": "off",
        }
        options = [word for pair in settings.items() for word in ("-c", "%s=%s" % pair)]
        return [str(self.BIN / "postgres"), "-D", str(self.directory / "data"), *options]

    def wait_ready(self):
        ready = "ready to accept connections"
        wait_until(lambda: ready in self.log(), 60, what=lambda: f"postgres runs\n{self.log()}")


class Redis(Daemon):
    program = "redis-server"
    user = "redis"
    pid_file = "redis.pid"
    talk = Talk(request=b"PING\r\n", end=b"\r\n")
    log_files = ("redis.log",)

    def configure(self):
        self.write(
            "redis.conf",
            f"port 0\nbind 127.0.0.1\ntls-port {self.port}\ntls-cert-file {self.certificate}\n"
            f"tls-key-file {self.key}\ntls-ca-cert-file {self.chain}\ntls-auth-clients no\n"
            f"dir {self.directory}\npidfile {self.directory}/redis.pid\n"
            f"logfile {self.directory}/redis.log\ndaemonize yes\nsave ''\n",
        )

    def command(self):
        return ["redis-server", str(self.directory / "redis.conf")]

    def reload(self):
        command = f"CONFIG SET tls-cert-file {self.certificate}\r\n"
        answer = handshake(self.port, talk=Talk(request=command.encode(), end=b"\r\n")).answer
        assert answer == b"+OK\r\n"


class Vsftpd(Daemon):
    """
    Two raw clones for each connection, chrooted, with at most 200 MB of address space and no
    further process allowed.
    """

    program = "vsftpd"
    reload_signal = None  # SIGHUP has it read its configuration, not the certificate
    exit_status = -signal.SIGTERM
    talk = Talk(opening=((b"", b"\r\n"), (b"AUTH TLS\r\n", b"\r\n")), request=b"QUIT\r\n")

    def configure(self):
        (self.directory / "empty").mkdir()
        self.write(
            "vsftpd.conf",
            f"listen=YES\nlisten_address=127.0.0.1\nlisten_port={self.port}\n"
            "background=NO\nlocal_enable=YES\nanonymous_enable=NO\nssl_enable=YES\n"
            "ssl_tlsv1=YES\nssl_ciphers=HIGH\nrequire_ssl_reuse=NO\n"
            f"secure_chroot_dir={self.directory}/empty\n"
            f"rsa_cert_file={self.certificate}\nrsa_private_key_file={self.key}\n"
            f"vsftpd_log_file={self.directory}/error.log\n",
        )

    def command(self):
        return ["vsftpd", str(self.directory / "vsftpd.conf")]


class Proftpd(Daemon):
    """
    Loads the certificate as root for each connection, has a status callback of its own, and closes
    all descriptors when it starts. Its package does not go with vsftpd's: scripts/deps unpacks it.
    """

    _CACHE = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    ROOT = pathlib.Path(_CACHE) / "ocspreload" / "proftpd"
    program = str(ROOT / "usr/sbin/proftpd")
    has_store = False  # it is not root when the response comes
    keeps_cache = False
    shares_cache = False
    exit_status = 0
    talk = Vsftpd.talk
    log_files = ("error.log", "tls.log")

    def configure(self):
        self.write(
            "proftpd.conf",
            f"ServerType standalone\nServerName test\nDefaultAddress 127.0.0.1\n"
            f"Port {self.port}\nSocketBindTight on\nUseIPv6 off\n"
            f"ModulePath {self.ROOT}/usr/lib/proftpd\nLoadModule mod_tls.c\n"
            f"PidFile {self.directory}/proftpd.pid\nScoreboardFile {self.directory}/scores\n"
            f"SystemLog {self.directory}/error.log\nWtmpLog off\nUser nobody\nGroup nogroup\n"
            f"DelayTable {self.directory}/delay\nUseReverseDNS off\n"
            f"TLSEngine on\nTLSLog {self.directory}/tls.log\nTLSProtocol TLSv1.2 TLSv1.3\n"
            f"TLSRSACertificateFile {self.certificate}\nTLSRSACertificateKeyFile {self.key}\n"
            f"TLSCertificateChainFile {self.chain}\n",
        )

    def command(self):
        return [self.program, "-n", "-c", str(self.directory / "proftpd.conf")]


class Postfix(Daemon):
    """smtpd is executed by the master when it is needed, and chroots itself."""

    program = "postfix"
    has_store = False
    keeps_cache = False
    shares_cache = False
    exit_status = -signal.SIGTERM
    talk = Talk(
        opening=(
            (b"", b"\r\n"),
            (b"HELO localhost\r\n", b"\r\n"),
            (b"STARTTLS\r\n", b"\r\n"),
        ),
        request=b"QUIT\r\n",
    )
    log_files = ("mail.log",)
    jail = "y"

    def configure(self):
        queue, conf = self.directory / "queue", self.directory / "etc"
        for path in (queue, conf, self.directory / "data"):
            path.mkdir()
        shutil.chown(self.directory / "data", "postfix")
        names = " ".join(name for name in self.environment() if name != "PATH")
        (conf / "main.cf").write_text(
            f"compatibility_level = 3.6\nqueue_directory = {queue}\n"
            f"data_directory = {self.directory}/data\nmaillog_file = {self.directory}/mail.log\n"
            f"maillog_file_prefixes = {self.directory}\nmyhostname = localhost\n"
            f"smtpd_tls_chain_files = {self.key}, {self.certificate}\n"
            "smtpd_tls_security_level = may\n"
            f"import_environment = MAIL_CONFIG {names}\n"
        )
        (conf / "master.cf").write_text(
            f"127.0.0.1:{self.port} inet n - {self.jail} - - smtpd\n"
            "pickup unix n - y 60 1 pickup\ncleanup unix n - y - 0 cleanup\n"
            "qmgr unix n - n 300 1 qmgr\nrewrite unix - - y - - trivial-rewrite\n"
            "tlsmgr unix - - y 1000? 1 tlsmgr\nanvil unix - - y - 1 anvil\n"
            "proxymap unix - - n - - proxymap\npostlog unix-dgram n - n - 1 postlogd\n"
        )

    def reload(self):
        """A shell waits for the master."""
        (master,) = children(self.pid)
        wait_until(lambda: is_ready_for(master, self.reload_signal), what=self.log)
        send_signal(master, self.reload_signal)

    def command(self):
        return ["postfix", "-c", str(self.directory / "etc"), "start-fg"]


class PostfixWithStore(Postfix):
    """Its smtpd is not chrooted, and reads the store as root; later it could not write there."""

    jail = "n"


class Gunicorn(Daemon):
    """The sync worker loads the certificate anew for each connection."""

    program = "gunicorn"
    keeps_cache = False
    shares_cache = False

    def configure(self):
        self.write(
            "application.py",
            "def application(environment, start):\n"
            "    start('200 OK', [('Content-Length', '5')])\n"
            "    return [b'hello']\n",
        )

    def command(self):
        return ["/usr/bin/gunicorn", "--bind", f"127.0.0.1:{self.port}", "--workers", "1"] + [
            *("--certfile", str(self.certificate), "--keyfile", str(self.key)),
            *("--chdir", str(self.directory), "application"),
        ]


class Mosquitto(Daemon):
    program = "mosquitto"
    runs_as = "mosquitto"
    # CONNECT (MQTT 3.1.1, a clean session, the client "t"), DISCONNECT.
    talk = Talk(request=b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01t\xe0\x00")

    def configure(self):
        self.write(
            "mosquitto.conf",
            f"user mosquitto\nlistener {self.port} 127.0.0.1\nallow_anonymous true\n"
            f"certfile {self.certificate}\nkeyfile {self.key}\n",
        )

    def renew(self, leaf):
        super().renew(leaf)
        shutil.chown(self.key, "mosquitto")  # read after root was given up

    def command(self):
        return ["mosquitto", "-c", str(self.directory / "mosquitto.conf")]


class Unbound(Daemon):
    """Chrooted, with a certificate that it loads as root, for good."""

    program = "unbound"
    reload_signal = None
    has_store = False
    _QUERY = b"\0\1\1\0\0\1\0\0\0\0\0\0\4test\0\0\1\0\1"  # test. IN A
    talk = Talk(request=len(_QUERY).to_bytes(2, "big") + _QUERY, end=bytes((192, 0, 2, 1)))

    def configure(self):
        jail = self.directory / "jail"
        jail.mkdir()
        self.write(
            "jail/unbound.conf",
            f"server:\n chroot: {jail}\n username: unbound\n directory: {jail}\n"
            f" interface: 127.0.0.1@{self.port}\n port: {self.port}\n tls-port: {self.port}\n"
            f" tls-service-key: {self.key}\n tls-service-pem: {self.certificate}\n"
            " use-syslog: no\n do-daemonize: no\n num-threads: 2\n"
            " local-zone: test. static\n local-data: 'test. IN A 192.0.2.1'\n"
            "remote-control:\n control-enable: no\n",
        )

    def command(self):
        return ["unbound", "-d", "-p", "-c", str(self.directory / "jail" / "unbound.conf")]


class Dovecot(Daemon):
    """
    As Debian configures it: imap-login and pop3-login are executed by the master when they are
    needed, chroot themselves, may have no second thread, and load the certificate only then.
    """

    program = "dovecot"
    has_store = False
    keeps_cache = False
    shares_cache = False
    talk = Talk(request=b"a LOGOUT\r\n")
    log_files = ("mail.log",)
    protocol, service = "imap", "imaps"
    jail = ""  # the default

    def configure(self):
        names = " ".join(
            f"{name}={value}" if " " not in value else f'"{name}={value}"'
            for name, value in self.environment().items()
            if name not in ("PATH", "HOME")
        )
        self.write(
            "dovecot.conf",
            f"base_dir = {self.directory}/run\nstate_dir = {self.directory}/state\n"
            f"log_path = {self.directory}/mail.log\nprotocols = {self.protocol}\n"
            f"listen = 127.0.0.1\nssl_cert = <{self.certificate}\nssl_key = <{self.key}\n"
            "passdb {\n driver = static\n args = nopassword=y\n}\n"
            "userdb {\n driver = static\n args = uid=mail gid=mail home=/nonexistent\n}\n"
            f"service {self.protocol}-login {{\n{self.jail}"
            f" inet_listener {self.protocol} {{\n  port = 0\n }}\n"
            f" inet_listener {self.service} {{\n  port = {self.port}\n }}\n}}\n"
            f"import_environment = $import_environment {names}\n",
        )

    def wait_ready(self):
        """Until it is done with whoever came to look whether it listens."""
        super().wait_ready()
        wait_until(lambda: f"{self.protocol}-login: " in self.log(), what=self.log)

    def handshake(self, **options):
        result = super().handshake(**options)
        # What it says, now and then, while another of its processes is still starting.
        while result.answer.startswith(b"* OK Waiting"):
            result.answer = result.answer.partition(b"\r\n")[2]
        return result

    def reload(self):
        """Who is accepted by a login process that is about to go is hung up on."""
        old = children(self.pid)
        super().reload()
        wait_until(lambda: not any(map(self._is_login, old)))

    def _is_login(self, pid):
        return is_alive(pid) and f"{self.protocol}-login" in threads(pid)

    def command(self):
        return ["dovecot", "-F", "-c", str(self.directory / "dovecot.conf")]


class DovecotPop3(Dovecot):
    protocol, service = "pop3", "pop3s"
    talk = Talk(request=b"QUIT\r\n")


class DovecotWithStore(Dovecot):
    """Not chrooted, as it would be by default; but not root, and with no process more than one."""

    jail = " chroot =\n"


class PhpCli(Daemon):
    """Loads the certificate anew for each connection, in a context of its own."""

    program = "php"
    needs_reload = False
    exit_status = -signal.SIGTERM
    has_store = True
    shares_cache = True

    def configure(self):
        self.write(
            "server.php",
            "<?php\n"
            "$context = stream_context_create(['ssl' => [\n"
            f"  'local_cert' => '{self.both}', 'verify_peer' => false,\n"
            "]]);\n"
            f"$server = stream_socket_server('ssl://127.0.0.1:{self.port}', $number, $text,\n"
            "  STREAM_SERVER_BIND | STREAM_SERVER_LISTEN, $context);\n"
            "while (true) {\n"
            "  $connection = @stream_socket_accept($server, 3600);\n"
            "  if (!$connection) continue;\n"
            "  fread($connection, 4096);\n"
            "  fwrite($connection, \"HTTP/1.0 200 OK\\r\\n\\r\\nhello\");\n"
            "  fclose($connection);\n"
            "}\n",
        )

    def command(self):
        return ["php", str(self.directory / "server.php")]
