# SPDX-License-Identifier: MIT
"""Servers of data, names, messages and calls; see daemons.py."""

import base64
import shutil
import signal

from client import Talk, handshake
from daemons import Daemon
from support import free_port, wait_until

# A query for test. IN A, and its answer's end.
DNS_QUERY = b"\0\1\1\0\0\1\0\0\0\0\0\0\4test\0\0\1\0\1"
DNS_TALK = Talk(request=len(DNS_QUERY).to_bytes(2, "big") + DNS_QUERY, end=bytes((192, 0, 2, 1)))


class Mariadb(Daemon):
    program = "mariadbd"
    user = "mysql"
    # A client that wants TLS (MySQL's protocol 4.1), and a stranger's attempt to log in.
    _FLAGS = (0x00088A00 | 0x200).to_bytes(4, "little") + (1 << 24).to_bytes(4, "little")
    _WANTED = _FLAGS + b"\x21" + bytes(23)
    _LOGIN = _WANTED + b"stranger\0\0mysql_native_password\0"
    talk = Talk(
        opening=(
            (b"", b"mysql_native_password\0"),
            (len(_WANTED).to_bytes(3, "little") + b"\1" + _WANTED, b""),
        ),
        request=len(_LOGIN).to_bytes(3, "little") + b"\2" + _LOGIN,
        end=b"using password: NO)",
    )

    def configure(self):
        data = self.directory / "data"
        shutil.chown(self.directory, self.user)
        self.run(
            *("mariadb-install-db", "--no-defaults", f"--datadir={data}", f"--user={self.user}"),
            *("--skip-test-db", "--auth-root-authentication-method=normal"),
        )

    def command(self):
        return ["mariadbd", "--no-defaults", f"--datadir={self.directory}/data"] + [
            *("--bind-address=127.0.0.1", f"--port={self.port}", "--skip-log-bin"),
            f"--socket={self.directory}/socket",
            *(f"--ssl-cert={self.certificate}", f"--ssl-key={self.key}"),
            "--innodb-flush-log-at-trx-commit=0",
        ]

    def reload(self):
        socket = f"--socket={self.directory}/socket"
        self.run("mariadb", "--no-defaults", socket, "--user=root", "--execute=FLUSH SSL")


class Memcached(Daemon):
    program = "memcached"
    talk = Talk(request=b"version\r\n", end=b"\r\n")
    runs_as = "memcache"
    has_store = False  # it is no longer root when the response comes

    def renew(self, leaf):
        super().renew(leaf)
        for path in (self.certificate, self.key):
            shutil.chown(path, "memcache")

    def reload(self):
        talk = Talk(request=b"refresh_certs\r\n", end=b"\r\n")
        assert handshake(self.port, talk=talk).answer == b"OK\r\n"

    def command(self):
        files = f"ssl_chain_cert={self.certificate},ssl_key={self.key}"
        return ["memcached", "-u", "memcache", "-l", "127.0.0.1", "-p", str(self.port)] + [
            *("-U", "0", "--enable-ssl", "-o", files)
        ]


class Named(Daemon):
    """DNS over TLS; it gives its capabilities up before it loads the certificate."""

    program = "named"
    talk = DNS_TALK
    runs_as = "bind"
    log_files = ()
    http = ""

    def configure(self):
        shutil.chown(self.directory, "bind")
        self.write("test.zone", "@ 60 SOA . . 1 60 60 60 60\n@ 60 NS .\n@ 60 A 192.0.2.1\n")
        self.write(
            "named.conf",
            f'tls files {{ cert-file "{self.certificate}"; key-file "{self.key}"; }};\n'
            f'options {{ directory "{self.directory}"; pid-file none; recursion no;\n'
            f" session-keyfile none; dnssec-validation no; listen-on-v6 {{ none; }};\n"
            f" listen-on port {self.port} tls files {self.http} {{ 127.0.0.1; }}; }};\n"
            "controls {};\n"
            f'zone "test" {{ type primary; file "{self.directory}/test.zone"; }};\n',
        )

    def renew(self, leaf):
        super().renew(leaf)
        shutil.chown(self.key, "bind")

    def wait_ready(self):
        """It listens well before it serves, and forgets who came in between."""
        wait_until(lambda: " running\n" in self.log(), 60, what=self.log)

    def command(self):
        return ["named", "-g", "-4", "-n", "2", "-u", "bind", "-c", f"{self.directory}/named.conf"]


class NamedHttps(Named):
    """DNS over HTTPS."""

    http = "http default"
    # It speaks HTTP/2 alone.
    talk = Talk(listens=False)


class Dnsdist(Daemon):
    program = "dnsdist"
    talk = DNS_TALK
    exit_status = -signal.SIGTERM
    has_store = False  # it is no longer root when the response comes

    def configure(self):
        shutil.chown(self.directory, "_dnsdist")
        self.write(
            "dnsdist.conf",
            f'setLocal("127.0.0.1:{self.port + 1}")\n'
            f'addTLSLocal("127.0.0.1:{self.port}", "{self.certificate}", "{self.key}", '
            '{provider="openssl"})\n'
            'addAction(AllRule(), SpoofAction("192.0.2.1"))\n'
            f'controlSocket("127.0.0.1:{free_port()}")\n'
            f'setKey("{base64.b64encode(bytes(32)).decode()}")\n',
        )

    def renew(self, leaf):
        super().renew(leaf)
        shutil.chown(self.key, "_dnsdist")

    def reload(self):
        conf = f"{self.directory}/dnsdist.conf"
        self.run("dnsdist", "-C", conf, "-c", "-e", "reloadAllCertificates()")

    def command(self):
        return ["dnsdist", "--supervised", "--disable-syslog"] + [
            *("-u", "_dnsdist", "-g", "_dnsdist", "-C", f"{self.directory}/dnsdist.conf")
        ]


class Prosody(Daemon):
    """LuaSec; its libssl is a module's own."""

    is_steady = False
    program = "prosody"
    user = "prosody"
    talk = Talk(
        request=b"<stream:stream xmlns='jabber:client' version='1.0' to='localhost' "
        b"xmlns:stream='http://etherx.jabber.org/streams'>",
        end=b"</stream:features>",
    )
    log_files = ("prosody.log",)

    def configure(self):
        (self.directory / "data").mkdir()
        self.write(
            "prosody.cfg.lua",
            f'data_path = "{self.directory}/data"\npidfile = "{self.directory}/prosody.pid"\n'
            f'log = {{ info = "{self.directory}/prosody.log" }}\nplugin_paths = {{}}\n'
            'modules_enabled = { "posix", "tls", "saslauth" }\nmodules_disabled = { "s2s" }\n'
            f'interfaces = {{ "127.0.0.1" }}\nc2s_ports = {{}}\ns2s_ports = {{}}\n'
            f"c2s_direct_tls_ports = {{ {self.port} }}\nuse_ipv6 = false\n"
            f'ssl = {{ certificate = "{self.certificate}", key = "{self.key}" }}\n'
            f'c2s_direct_tls_ssl = {{ certificate = "{self.certificate}", key = "{self.key}" }}\n'
            'VirtualHost "localhost"\n',
        )

    def command(self):
        return ["prosody", "-F", "--config", f"{self.directory}/prosody.cfg.lua"]


class Coturn(Daemon):
    program = "turnserver"
    user = "turnserver"
    reload_signal = signal.SIGUSR2
    exit_status = -signal.SIGTERM
    # A STUN binding request (RFC 8489) with the transaction "transaction!", and the answer's
    # beginning, which holds it.
    talk = Talk(request=b"\0\1\0\0\x21\x12\xa4\x42transaction!", end=b"transaction!")

    def command(self):
        return ["turnserver", "-n", "--listening-ip=127.0.0.1"] + [
            *(f"--listening-port={self.port + 1}", f"--tls-listening-port={self.port}"),
            *("--no-udp", "--no-dtls", "--no-tcp", "--no-cli", "--log-file=stdout", "--no-auth"),
            *(f"--cert={self.certificate}", f"--pkey={self.key}", "--realm=localhost"),
            *(f"--pidfile={self.directory}/turnserver.pid", f"--db={self.directory}/db"),
        ]


class Kamailio(Daemon):
    """OpenSSL's memory is its own, shared by its processes; whoever uses it sooner ends it."""

    program = "kamailio"
    user = "kamailio"
    _SIP = (
        b"OPTIONS sip:localhost SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1;branch=z9hG4bK1\r\n"
        b"From: <sip:a@localhost>;tag=1\r\nTo: <sip:b@localhost>\r\nCall-ID: 1\r\n"
        b"CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
    talk = Talk(request=_SIP, end=b"\r\n\r\n")

    def configure(self):
        self.write(
            "kamailio.cfg",
            "#!KAMAILIO\nchildren=2\ntcp_children=2\nenable_tls=yes\nlog_stderror=yes\n"
            f"listen=tls:127.0.0.1:{self.port}\nauto_aliases=no\n"
            'loadmodule "sl.so"\nloadmodule "ctl.so"\nloadmodule "tls.so"\n'
            f'modparam("ctl", "binrpc", "unix:{self.directory}/control")\n'
            f'modparam("tls", "config", "{self.directory}/tls.cfg")\n'
            'request_route { sl_send_reply("200", "OK"); exit; }\n',
        )

        self.write(
            "tls.cfg",
            "[server:default]\nmethod = TLSv1.2+\n"
            f"certificate = {self.certificate}\nprivate_key = {self.key}\n",
        )

    def reload(self):
        self.run("kamcmd", "-s", f"unix:{self.directory}/control", "tls.reload")

    def trouble(self):
        """Which of its processes sees the others end is a matter of moments."""
        return {line for line in super().trouble() if "receive_fd(): EOF" not in line}

    def command(self):
        return ["kamailio", "-DD", "-E", "-m", "64", "-M", "8"] + [
            *("-f", f"{self.directory}/kamailio.cfg", "-Y", str(self.directory)),
            *("-P", f"{self.directory}/kamailio.pid"),
        ]


class SyslogNg(Daemon):
    program = "syslog-ng"
    talk = Talk(request=b"<13>Jan  1 00:00:00 host test: hello\n", listens=False)

    def configure(self):
        self.write(
            "syslog-ng.conf",
            "@version: 3.38\noptions { stats-freq(0); };\n"
            f"source s {{ network(ip(127.0.0.1) port({self.port}) transport(tls)\n"
            f' tls(key-file("{self.key}") cert-file("{self.certificate}")\n'
            "  peer-verify(optional-untrusted))); };\n"
            f'destination d {{ file("{self.directory}/received"); }};\n'
            "log { source(s); destination(d); };\n",
        )

    def command(self):
        return ["syslog-ng", "-F", "--no-caps", "-e", "-f", f"{self.directory}/syslog-ng.conf"] + [
            *("-R", f"{self.directory}/persist", "-c", f"{self.directory}/control"),
            *("-p", f"{self.directory}/pid"),
        ]


KINDS = [
    Mariadb,
    Memcached,
    Named,
    NamedHttps,
    Dnsdist,
    Prosody,
    Coturn,
    Kamailio,
    SyslogNg,
]
