# SPDX-License-Identifier: MIT
"""Servers for which a scene has to be set, a file system of their own for one; see daemons.py."""

import fcntl
import functools
import hmac
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import threading

from client import Talk
from daemons import Daemon, is_open, waits_for_connections
from daemons_web import Proxy
from hosts_table import UNPACKED
from servers import BUILD, HERE, LIBRARY, PLAIN_ENVIRONMENT, children
from support import free_port, wait_until

# The command sees an /etc of its own, with $2 laid over it; the machine's stays as it is.
_PRIVATE = """set -e
mount -t tmpfs -o mode=755 tmpfs "$1"
cp -a /etc/. "$1"
cp -a "$2/." "$1"
mount --bind "$1" /etc
shift 2
exec "$@"
"""


def with_etc(directory, files):
    """What stands before a command, so that it and its children see these files in /etc."""
    etc, over = directory / "etc", directory / "etc-over"
    for path in (etc, over):
        path.mkdir()
    for name, text in files.items():
        (over / name).write_text(text)
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", _PRIVATE, "sh"] + [
        *(str(etc), str(over))
    ]


def with_user(directory, name, uid, gid):
    """The same with one user more, and a group by its name."""
    passwd = pathlib.Path("/etc/passwd").read_text() + f"{name}:x:{uid}:{gid}::/:/bin/false\n"
    group = pathlib.Path("/etc/group").read_text() + f"{name}:x:{uid}:\n"
    return with_etc(directory, {"passwd": passwd, "group": group})


_BOUND = """set -e
mount --bind "$1" "$2"
shift 2
exec "$@"
"""


def with_bound(source, target):
    """What stands before a command, so that it sees at target what is at source."""
    target.mkdir()
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", _BOUND, "sh"] + [
        *(str(source), str(target))
    ]


# The command sees, where servers look for syslog, a link to the socket $2.
_SYSLOG = """set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work"
ln -s "$2" "$1/upper/log"
mount -t overlay overlay -o "lowerdir=/dev,upperdir=$1/upper,workdir=$1/work" /dev
shift 2
exec "$@"
"""


class Syslog:
    """What a command and its children log, in a file; wrapper is what stands before it."""

    def __init__(self, directory):
        self._file = directory / "syslog"
        over, path = directory / "dev", directory / "dev-log"
        over.mkdir()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        path.chmod(0o666)
        self.wrapper = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _SYSLOG, "sh"]
        self.wrapper += [str(over), str(path)]
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self):
        with self._file.open("ab", buffering=0) as out:
            while True:
                line = self._socket.recv(8192)
                if not line:
                    return
                out.write(line.rstrip(b"\n\0") + b"\n")

    def close(self):
        """All that was sent before is in the file."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()


class LogsToSyslog(Daemon):
    log_files = ("syslog",)

    def configure(self):
        self._syslog = Syslog(self.directory)
        self._wrapper += self._syslog.wrapper

    def stop(self, how=None):
        status = super().stop(how)
        if self._syslog:
            self._syslog.close()
            self._syslog = None
        return status


class SecuredProxy(Proxy):
    """
    Its server is executed with the rights of root behind those of its user, where the loader takes
    no path from LD_PRELOAD: the library is named in /etc/ld.so.preload, and configured in
    /etc/ocspreload.conf.
    """

    def configure(self):
        if self.shim:
            self.preload()

    def preload(self):
        variables = {**self.shim.variables, **self._environment, "OCSPRELOAD_LOG": self.shim_log}
        lines = [f"{name}={value}\n" for name, value in variables.items()]
        files = {"ld.so.preload": f"{LIBRARY}\n", "ocspreload.conf": "".join(lines)}
        self._wrapper += with_etc(self.directory, files)

    @property
    def shim_log(self):
        return str(self.directory / "stderr")

    def environment(self):
        return PLAIN_ENVIRONMENT


class Squid(SecuredProxy):
    """A reverse proxy, of which the worker is the server."""

    program = "squid"
    runs_as = "proxy"
    shares_cache = False  # master and worker are executed one by one
    keeps_cache = False  # each asks for itself
    has_store = False
    log_files = ("cache.log",)
    talk = Talk(request=b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")

    def configure(self):
        shutil.chown(self.directory, "proxy")
        self.write(
            "squid.conf",
            f"https_port 127.0.0.1:{self.port} accel defaultsite=localhost no-vhost "
            f"tls-cert={self.certificate} tls-key={self.key}\n"
            f"cache_peer 127.0.0.1 parent {self.backend_port} 0 no-query originserver\n"
            "http_access allow all\ncache deny all\naccess_log none\nnetdb_filename none\n"
            f"cache_log {self.directory}/cache.log\npid_filename {self.directory}/squid.pid\n"
            f"coredump_dir {self.directory}\nshutdown_lifetime 0 seconds\npinger_enable off\n"
            "visible_hostname localhost\n",
        )
        super().configure()

    def wait_ready(self):
        """Until what it says of its start cannot be taken for what it says of a reload."""
        super().wait_ready()
        wait_until(lambda: self._accepting() >= 1, 60, what=self.log)

    def _accepting(self):
        log = self.directory / "cache.log"
        return log.read_text().count("Accepting reverse-proxy") if log.exists() else 0

    def reload(self):
        """Between the old sockets and the new ones it listens to none."""
        ready = self._accepting()
        super().reload()
        # It says so a moment before it is true.
        wait_until(lambda: self._accepting() > ready and is_open(self.port), what=self.log)

    def command(self):
        name = f"test{self.port}"  # of what it shares with its worker
        return ["squid", "--foreground", "-C", "-n", name, "-f", f"{self.directory}/squid.conf"]


class SquidByEnvironment(Squid):
    """The way that does not reach its worker."""

    def preload(self):
        pass

    def environment(self):
        return Daemon.environment(self)


# The command sees the library $2 in the system's own directory, with the setuid bit.
_BARE_NAME = """set -e
system=/usr/lib/x86_64-linux-gnu
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work"
mount -t overlay overlay -o "lowerdir=$system,upperdir=$1/upper,workdir=$1/work" "$system"
install -m 4755 "$2" "$system/libocspreload.so"
shift 2
exec "$@"
"""


class SquidByBareName(Squid):
    """The other way: the library stands where the loader takes names without a path from."""

    def preload(self):
        over = self.directory / "over"
        over.mkdir()
        self._wrapper += ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
        self._wrapper += [_BARE_NAME, "sh", str(over), str(LIBRARY)]
        # Only for what comes after.
        self._wrapper += ["env", "LD_PRELOAD=libocspreload.so"]


class Trafficserver(SecuredProxy):
    """A manager, as root, starts the server."""

    program = "traffic_manager"
    runs_as = "trafficserver"
    reloads = 1  # it takes its time over each
    exit_status = 0
    log_files = ("tree/log/diags.log", "tree/shim.log")
    talk = Talk(request=b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")

    def wait_ready(self):
        """It listens well before it has its certificates."""
        wait_until(lambda: "traffic server running" in self.log(), 60, what=self.log)

    def configure(self):
        tree = self.directory / "tree"
        for name in ("etc", "log", "run", "cache", "share"):
            (tree / name).mkdir(parents=True)
        self.write(
            "tree/runroot.yaml",
            f"prefix: {tree}\nexec_prefix: {tree}\nbindir: /usr/bin\nsbindir: /usr/sbin\n"
            f"sysconfdir: {tree}/etc\ndatadir: {tree}/share\nlocalstatedir: {tree}/run\n"
            f"runtimedir: {tree}/run\nlogdir: {tree}/log\ncachedir: {tree}/cache\n"
            "libexecdir: /usr/lib/trafficserver/modules\n",
        )
        settings = {
            "http.server_ports": f"STRING {self.port}:ip-in=127.0.0.1:ssl",
            "ssl.server.cert.path": "STRING /",
            "ssl.server.private_key.path": "STRING /",
            "admin.user_id": "STRING trafficserver",
            "http.cache.http": "INT 0",
            "exec_thread.autoconfig": "INT 0",
            "exec_thread.limit": "INT 2",
        }
        lines = [f"CONFIG proxy.config.{name} {value}\n" for name, value in settings.items()]
        self.write("tree/etc/records.config", "".join(lines))
        self.write(
            "tree/etc/ssl_multicert.config",
            f"dest_ip=* ssl_cert_name={self.certificate} ssl_key_name={self.key}\n",
        )
        self.write("tree/etc/remap.config", f"map / http://127.0.0.1:{self.backend_port}/\n")
        for name in ("ip_allow.yaml", "sni.yaml", "plugin.config", "parent.config"):
            shutil.copy(f"/etc/trafficserver/{name}", tree / "etc")
        self.write("tree/etc/storage.config", f"{tree}/cache 64M\n")
        self.write("tree/shim.log", "")
        super().configure()
        for path in [tree, *tree.rglob("*")]:
            shutil.chown(path, "trafficserver")

    @property
    def shim_log(self):
        return f"{self.directory}/tree/shim.log"

    def renew(self, leaf):
        super().renew(leaf)
        shutil.chown(self.key, "trafficserver")

    def command(self):
        return ["traffic_manager", self._tree]

    @property
    def _tree(self):
        return f"--run-root={self.directory}/tree/runroot.yaml"

    def reload(self):
        loaded = self._loaded()
        (self.directory / "tree/etc/ssl_multicert.config").touch()
        self.run("traffic_ctl", self._tree, "config", "reload")
        wait_until(lambda: self._loaded() > loaded, what=self.log)

    def _loaded(self):
        return self.log().count("ssl_multicert.config finished loading")


class Uwsgi(Daemon):
    program = "uwsgi"
    keeps_cache = False  # it executes itself
    shares_cache = False  # and closes, meanwhile, the connection with the responder
    has_store = False  # it is no longer root when the response comes

    def renew(self, leaf):
        super().renew(leaf)
        shutil.chown(self.key, "www-data")  # read again after root was given up

    def wait_ready(self):
        wait_until(lambda: self._spawned() >= 2, 60, what=self.log)

    def _spawned(self):
        return self.log().count("spawned uWSGI worker ")

    def reload(self):
        # The signal by which the master ends a worker is lost on one that has just been born.
        wait_until(self._is_at_rest, what=self.log)
        spawned = self._spawned()
        super().reload()
        wait_until(lambda: self._spawned() >= spawned + 2, what=self.log)

    def _is_at_rest(self):
        workers = children(self.pid)
        return len(workers) == 2 and all(map(waits_for_connections, workers))

    def command(self):
        listen = f"127.0.0.1:{self.port},{self.certificate},{self.key}"
        return ["uwsgi", "--master", "--die-on-term", "--workers", "2"] + [
            *("--https-socket", listen, "--route-run", "send:hello", "--route-run", "break:200 OK"),
            *("--uid", "www-data", "--gid", "www-data"),
        ]


class Znc(Daemon):
    program = "znc"
    user = "_znc"
    needs_reload = False
    talk = Talk(end=b"\r\n\r\n")

    def configure(self):
        (self.directory / "configs").mkdir()
        self.write(
            "configs/znc.conf",
            f"Version = 1.8.2\nSSLCertFile = {self.both}\nSSLKeyFile = {self.key}\n"
            f"<Listener l>\nHost = 127.0.0.1\nPort = {self.port}\nSSL = true\n"
            "IPv4 = true\nIPv6 = false\nAllowIRC = true\nAllowWeb = true\nURIPrefix = /\n"
            "</Listener>\n<User somebody>\nPass = plain#secret\nAdmin = true\n</User>\n",
        )

    def command(self):
        return ["znc", "--foreground", "--datadir", str(self.directory)]


class PureFtpd(LogsToSyslog):
    """A process for each connection. Its package does not go with vsftpd's."""

    program = str(UNPACKED / "pure-ftpd/usr/sbin/pure-ftpd")
    reload_signal = None
    talk = Talk(
        opening=((b"", b"inactivity.\r\n"), (b"AUTH TLS\r\n", b"\r\n")), request=b"QUIT\r\n"
    )

    def command(self):
        return [self.program, "-S", f"127.0.0.1,{self.port}", "-Y", "1", "-E", "-4"] + [
            *("-2", f"{self.certificate},{self.key}", "-g", f"{self.directory}/pure-ftpd.pid"),
        ]


def _status_server():
    """RADIUS' "are you there" (RFC 5997), with its Message-Authenticator."""
    head = b"\x0c\0\0\x26" + bytes(16) + b"\x50\x12"
    return head + hmac.new(b"radsec", head + bytes(16), "md5").digest()


class Freeradius(Daemon):
    """RADIUS over TLS, and EAP-TLS beside it."""

    program = "freeradius"
    user = "freerad"
    reload_signal = None
    talk = Talk(request=_status_server(), end=b"\x02\0")
    log_files = ("radius.log",)

    def __init__(self, directory, shim, leaf, **options):
        self.roots = leaf.authority.root.file
        super().__init__(directory, shim, leaf, **options)

    def configure(self):
        self.eap_port = free_port()
        self.trust = self.write("trust.pem", self.roots.read_text() + self.chain.read_text())
        files = (
            f"private_key_file = {self.key}\ncertificate_file = {self.certificate}\n"
            f"ca_file = {self.trust}\ntls_max_version = \"1.3\"\n"
        )
        self.write(
            "radiusd.conf",
            f"prefix = /usr\nlocalstatedir = {self.directory}\n"
            f"run_dir = {self.directory}\nlogdir = {self.directory}\n"
            "libdir = /usr/lib/freeradius\n"
            f"pidfile = {self.directory}/radius.pid\nlog {{\n destination = files\n"
            f" file = {self.directory}/radius.log\n}}\nsecurity {{\n status_server = yes\n}}\n"
            "thread pool {\n start_servers = 2\n}\n"
            "client local {\n ipaddr = 127.0.0.1\n secret = secret\n}\n"
            "clients radsec {\n client local {\n  ipaddr = 127.0.0.1\n  proto = tls\n"
            "  secret = radsec\n }\n}\n"
            "modules {\n eap {\n  default_eap_type = tls\n"
            f"  tls-config common {{\n{files}  }}\n  tls {{\n   tls = common\n  }}\n }}\n}}\n"
            "server default {\n"
            f" listen {{\n  type = auth\n  ipaddr = 127.0.0.1\n  port = {self.eap_port}\n }}\n"
            f" listen {{\n  type = auth\n  proto = tcp\n  ipaddr = 127.0.0.1\n"
            f"  port = {self.port}\n  clients = radsec\n"
            f"  tls {{\n{files}   require_client_cert = no\n  }}\n }}\n"
            " authorize {\n  eap\n }\n authenticate {\n  eap\n }\n}\n",
        )

    def command(self):
        return ["freeradius", "-f", "-d", str(self.directory), "-n", "radiusd"]



@functools.cache
def _turn(directory):
    """One for each process of tests: two Cyrus at a time disturb each other."""
    return os.open(directory, os.O_RDONLY)


class Cyrus(LogsToSyslog):
    """
    imapd is executed by the master when it is needed, as the user cyrus, and loads the certificate
    when a connection wants it. Its package does not go with Dovecot's, nor is its user there.
    """

    ROOT = UNPACKED / "cyrus-imapd"
    program = str(ROOT / "usr/sbin/cyrmaster")
    keeps_cache = False
    shares_cache = False
    # An imapd that has just taken a connection ends with it all the same.
    is_steady = False
    talk = Talk(request=b"a LOGOUT\r\n")
    log_files = ("syslog", "shim.log")
    _UID, _MAIL = 64004, 8
    runs_as = _UID

    def configure(self):
        state = self.directory / "state"
        for path in (state, state / "db", state / "mail", state / "socket"):
            path.mkdir()
        self.write(
            "imapd.conf",
            f"configdirectory: {state}\npartition-default: {state}/mail\n"
            "defaultpartition: default\nsasl_pwcheck_method: auxprop\n"
            f"idlesocket: {state}/socket/idle\ntls_server_cert: {self.certificate}\n"
            f"tls_server_key: {self.key}\n",
        )
        self._root = self.directory / "root"  # which its user reaches
        programs = self._root / "usr/lib/cyrus/bin"
        files = f"-C {self.directory}/imapd.conf"
        self.write(
            "cyrus.conf",
            f'START {{\n recover cmd="{programs}/ctl_cyrusdb {files} -r"\n}}\n'
            f'SERVICES {{\n imaps cmd="{programs}/imapd {files} -U 30 -s"'
            f' listen="127.0.0.1:{self.port}" prefork=0 maxchild=100\n}}\n',
        )
        self.write("shim.log", "")
        for path in [self.directory, *self.directory.rglob("*")]:
            shutil.chown(path, self._UID, self._MAIL)
        self._wrapper += with_user(self.directory, "cyrus", self._UID, self._MAIL)
        self._wrapper += with_bound(self.ROOT, self._root)
        super().configure()

    def start(self):
        fcntl.flock(_turn(self.ROOT), fcntl.LOCK_EX)
        super().start()

    def stop(self, how=None):
        try:
            return super().stop(how)
        finally:
            fcntl.flock(_turn(self.ROOT), fcntl.LOCK_UN)

    def renew(self, leaf):
        super().renew(leaf)
        shutil.chown(self.key, self._UID, self._MAIL)

    def trouble(self):
        """Whether an imapd is ready for the signal that ends it is a matter of moments."""
        ended = "signaled to death by signal  (Terminated)"
        return {line for line in super().trouble() if ended not in line}

    def is_listening(self):
        return is_open(self.port)

    def environment(self):
        """Its master leaves nobody a standard error."""
        libraries = {"LD_LIBRARY_PATH": str(self._root / "usr/lib/x86_64-linux-gnu")}
        log = {"OCSPRELOAD_LOG": str(self.directory / "shim.log")}
        return {**super().environment(), **libraries, **log}

    def command(self):
        files = ["-C", f"{self.directory}/imapd.conf", "-M", f"{self.directory}/cyrus.conf"]
        master = str(self._root / "usr/sbin/cyrmaster")
        return [master, "-l", "32", *files, "-p", f"{self.directory}/master.pid"]


class Webhook(Daemon):
    """A server in Go."""

    program = "webhook"
    reload_signal = None

    def command(self):
        return ["webhook", "-ip", "127.0.0.1", "-port", str(self.port), "-secure"] + [
            *("-cert", str(self.certificate), "-key", str(self.key), "-nopanic"),
        ]


class Java(Daemon):
    """A server in Java, with the TLS that it comes with."""

    program = "java"
    reload_signal = None
    exit_status = 128 + signal.SIGTERM
    _JAVA = ("java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")

    def configure(self):
        """Compiles it, which takes the longest of all, once."""
        source = HERE / "hosts" / "java_server.java"
        self._classes = BUILD / "hosts"
        done = self._classes / "JavaServer.class"
        if not done.exists() or done.stat().st_mtime < source.stat().st_mtime:
            # As javac does, which a runtime alone lacks.
            compiler = ["-m", "jdk.compiler/com.sun.tools.javac.Main", "-d", str(self._classes)]
            subprocess.run([*self._JAVA, *compiler, str(source)], env=PLAIN_ENVIRONMENT, check=True)

    def command(self):
        files = [str(self.certificate), str(self.key)]
        return [*self._JAVA, "-cp", str(self._classes), "JavaServer", str(self.port), *files]


class Exim(Daemon):
    """Debian's has GnuTLS. Its package does not go with Postfix', nor is its user there."""

    program = str(UNPACKED / "exim4/usr/sbin/exim4")
    reload_signal = None
    talk = Talk(
        opening=(
            (b"", b"\r\n"),
            (b"EHLO localhost\r\n", b"HELP\r\n"),
            (b"STARTTLS\r\n", b"\r\n"),
        ),
        request=b"QUIT\r\n",
    )
    log_files = ("mainlog", "paniclog")
    _UID = 64003

    def configure(self):
        self.write(
            "exim.conf",
            f"exim_path = {self.program}\nspool_directory = {self.directory}/spool\n"
            f"log_file_path = {self.directory}/%slog\nprimary_hostname = localhost\n"
            f"daemon_smtp_ports = {self.port}\nlocal_interfaces = 127.0.0.1\n"
            f"tls_advertise_hosts = *\ntls_certificate = {self.certificate}\n"
            f"tls_privatekey = {self.key}\nkeep_environment =\nlog_selector = +smtp_connection\n",
        )
        shutil.chown(self.directory, self._UID, self._UID)
        self._wrapper += with_user(self.directory, "Debian-exim", self._UID, self._UID)

    def renew(self, leaf):
        super().renew(leaf)
        shutil.chown(self.key, self._UID, self._UID)

    def command(self):
        return [self.program, "-C", str(self.directory / "exim.conf"), "-bdf"]


class Tor(Daemon):
    """A relay of a network of its own, with certificates that it makes itself, in its sandbox."""

    program = "tor"
    user = "debian-tor"
    reload_signal = None
    talk = Talk(request=b"hello", listens=False)
    stop_signal = signal.SIGKILL  # else it takes its time, with the shim and without
    exit_status = -signal.SIGKILL

    def configure(self):
        nobody = "0123456789ABCDEF" * 2 + "01234567"
        self.write(
            "torrc",
            f"DataDirectory {self.directory}/data\nORPort 127.0.0.1:{self.port}\n"
            "Sandbox 1\nSocksPort 0\nTestingTorNetwork 1\nAssumeReachable 1\n"
            "PublishServerDescriptor 0\nExitRelay 0\nAddress 127.0.0.1\n"
            f"DirAuthority nobody orport=1 v3ident={nobody} 127.0.0.1:1 {nobody}\n"
            f"Log notice file {self.directory}/error.log\n",
        )

    def command(self):
        return ["tor", "--defaults-torrc", "/dev/null", "-f", str(self.directory / "torrc")]


class Boringssl(Daemon):
    """A program of BoringSSL, as the loader sees it."""

    program = "/usr/bin/python3"
    reload_signal = None
    exit_status = -signal.SIGTERM

    def command(self):
        files = [str(self.certificate), str(self.key)]
        return [self.program, str(HERE / "hosts" / "boringssl_server.py"), str(self.port), *files]


class Openvpn(Daemon):
    """Without a device. Its clients do not ask for a staple."""

    program = "openvpn"
    reload_signal = None
    log_files = ("log",)

    def __init__(self, directory, shim, leaf, **options):
        self.roots = leaf.authority.root.file
        super().__init__(directory, shim, leaf, **options)

    def configure(self):
        self.trust = self.write("trust.pem", self.roots.read_text() + self.chain.read_text())

    def wait_ready(self):
        """Its first connection is the only one."""
        wait_until(lambda: "Listening for incoming TCP connection" in self.log(), 60, what=self.log)

    def command(self):
        return self.options("--tls-server", "--dh", "none", "--proto", "tcp-server") + [
            *("--local", "127.0.0.1", "--lport", str(self.port), "--log", "log"),
        ]

    def client(self):
        return self.options("--tls-client", "--proto", "tcp-client") + [
            *("--remote", "127.0.0.1", str(self.port), "--nobind"),
        ]

    def options(self, *options):
        return ["openvpn", "--dev", "null", *options] + [
            *("--ca", str(self.trust), "--cert", str(self.certificate), "--key", str(self.key)),
        ]


KINDS = [
    Cyrus,
    Squid,
    Trafficserver,
    Uwsgi,
    Znc,
    PureFtpd,
    Freeradius,
]

# They are not, and cannot be, stapled for.
OUT_OF_REACH = [
    Webhook,
    Java,
    Exim,
    Tor,
    Boringssl,
]
