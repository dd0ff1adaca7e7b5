# SPDX-License-Identifier: MIT
"""
The table of servers in docs/servers.md, written by what the tests have seen.

A test that has seen a server staple says so with the fixture "seen"; with OCSPRELOAD_WRITE_DOCS=1
the run that passes writes the table.
"""

import dataclasses
import datetime
import os
import pathlib
import re
import subprocess

FILE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "servers.md"
BEGIN = "<!-- The table is written by the tests: CONTRIBUTING.md. -->"
END = "<!-- The end of the table. -->"
BEGIN_OUT = "<!-- And so is this one. -->"
END_OUT = "<!-- Its end. -->"

# Where scripts/unpack puts what cannot be installed beside others, by what its package begins with.
UNPACKED = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
UNPACKED /= "ocspreload"

# What can be seen, in the order of the columns.
FIRST = "first handshake"
RELOAD = "reload"
RESTART = "restart, responder down"
COLUMNS = (FIRST, RELOAD, RESTART)
# Or instead, in the doctor's words.
WHY_NOT = "why not"


@dataclasses.dataclass
class Host:
    title: str
    package: str  # Debian's, for its version; None where it has none
    how: str = None  # it is switched on; None where it is of no use
    program: str = None  # which says its version, where there is no package to ask


DROP_IN = "drop-in, `{}`"
PREFIX = "`LD_PRELOAD=LIB {} …`"

# By the name of the class that starts it.
HOSTS = {
    "Nginx": Host("nginx", "nginx-light", DROP_IN.format("nginx")),
    "ApachePrefork": Host("Apache, prefork", "apache2-bin", "`/etc/apache2/envvars`"),
    "ApacheEvent": Host("Apache, event", "apache2-bin", "`/etc/apache2/envvars`"),
    "Haproxy": Host("HAProxy, `-W`", "haproxy", DROP_IN.format("haproxy")),
    "Lighttpd": Host("lighttpd", "lighttpd", DROP_IN.format("lighttpd")),
    "Hitch": Host("Hitch", "hitch", DROP_IN.format("hitch")),
    "H2o": Host("H2O", "h2o", DROP_IN.format("h2o")),
    "Nghttpx": Host("nghttpx", "nghttp2-proxy", DROP_IN.format("nghttpx")),
    "Squid": Host("Squid, reverse proxy", "squid-openssl", "`/etc/ld.so.preload`"),
    "Trafficserver": Host("Traffic Server", "trafficserver", "`/etc/ld.so.preload`"),
    "Stunnel": Host("stunnel4", "stunnel4", DROP_IN.format("stunnel@NAME")),
    "StunnelInJail": Host("stunnel4, chrooted", "stunnel4", DROP_IN.format("stunnel@NAME")),
    "StunnelOfInetd": Host("stunnel4, inetd mode", "stunnel4", DROP_IN.format("NAME@")),
    "Postfix": Host("Postfix smtpd, chrooted", "postfix", "`main.cf`"),
    "PostfixWithStore": Host("Postfix smtpd, not chrooted", "postfix", "`main.cf`"),
    "Dovecot": Host("Dovecot imap-login", "dovecot-imapd", "`dovecot.conf`, and the agent"),
    "DovecotPop3": Host("Dovecot pop3-login", "dovecot-pop3d", "`dovecot.conf`, and the agent"),
    "DovecotWithStore": Host("Dovecot, not chrooted", "dovecot-imapd", "`dovecot.conf`"),
    "Cyrus": Host("Cyrus imapd", "cyrus-imapd", DROP_IN.format("cyrus-imapd")),
    "Postgresql": Host("PostgreSQL", "postgresql-15", "`/etc/postgresql/15/main/environment`"),
    "Mariadb": Host("MariaDB", "mariadb-server", DROP_IN.format("mariadb")),
    "Redis": Host("Redis", "redis-server", DROP_IN.format("redis-server")),
    "Memcached": Host("memcached", "memcached", DROP_IN.format("memcached")),
    "Mosquitto": Host("Mosquitto", "mosquitto", DROP_IN.format("mosquitto")),
    "Named": Host("BIND, DNS over TLS", "bind9", DROP_IN.format("named")),
    "NamedHttps": Host("BIND, DNS over HTTPS", "bind9", DROP_IN.format("named")),
    "Unbound": Host("Unbound, DNS over TLS", "unbound", DROP_IN.format("unbound")),
    "Dnsdist": Host("dnsdist, DNS over TLS", "dnsdist", DROP_IN.format("dnsdist")),
    "PythonServer": Host("Python, `ssl`", "python3", PREFIX.format("python3")),
    "Asyncio": Host("Python, `asyncio`", "python3", PREFIX.format("python3")),
    "Gunicorn": Host("gunicorn, sync workers", "gunicorn", PREFIX.format("gunicorn")),
    "Uwsgi": Host("uWSGI", "uwsgi-core", DROP_IN.format("uwsgi-app@NAME")),
    "Uvicorn": Host("uvicorn", "python3-uvicorn", PREFIX.format("uvicorn")),
    "Twisted": Host("Twisted", "python3-twisted", PREFIX.format("twistd3")),
    "Nodejs": Host("Node.js, as installed", None, PREFIX.format("node"), "node"),
    "OfficialNode": Host("Node.js, official binary", None, PREFIX.format("node")),
    "Puma": Host("Puma", "puma", PREFIX.format("puma")),
    "Perl": Host("Perl, IO::Socket::SSL", "libio-socket-ssl-perl", PREFIX.format("perl")),
    "PhpCli": Host("PHP, command line", "php8.2-cli", PREFIX.format("php")),
    "Prosody": Host("Prosody", "prosody", DROP_IN.format("prosody")),
    "Vsftpd": Host("vsftpd", "vsftpd", DROP_IN.format("vsftpd")),
    "Proftpd": Host("ProFTPD", "proftpd-core", DROP_IN.format("proftpd")),
    "PureFtpd": Host("Pure-FTPd", "pure-ftpd", "`/etc/default/pure-ftpd-common`"),
    "Coturn": Host("coturn", "coturn", DROP_IN.format("coturn")),
    "Kamailio": Host("Kamailio", "kamailio", DROP_IN.format("kamailio")),
    "Freeradius": Host("FreeRADIUS, RADIUS over TLS", "freeradius", DROP_IN.format("freeradius")),
    "FreeradiusEap": Host("FreeRADIUS, EAP-TLS", "freeradius", DROP_IN.format("freeradius")),
    "Znc": Host("ZNC", "znc", DROP_IN.format("znc")),
    "SyslogNg": Host("syslog-ng", "syslog-ng-core", DROP_IN.format("syslog-ng")),
    "Socat": Host("socat", "socat", PREFIX.format("socat")),
    "Ncat": Host("Ncat", "ncat", PREFIX.format("ncat")),
    "SServer": Host("`openssl s_server`", "openssl", PREFIX.format("openssl s_server")),
    "Exim": Host("Exim", "exim4-daemon-light"),
    "Webhook": Host("webhook, in Go", "webhook"),
    "Java": Host("Java, its own TLS", None, program="java"),
    "Boringssl": Host("a program of BoringSSL", "android-libboringssl"),
    "Tor": Host("Tor, a relay in its sandbox", "tor"),
    "Openvpn": Host("OpenVPN", "openvpn"),
}


def _version(host):
    """Upstream's, without Debian's epoch and revision."""
    if host.program:
        output = subprocess.check_output([host.program, "--version"], text=True)
        return re.search(r"\d+(\.\d+)+", output).group()
    output = subprocess.run(
        ["dpkg-query", "-W", "-f", "${source:Upstream-Version}\n", host.package],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    if not output:
        name = host.package.removesuffix("-core").removesuffix("-daemon-light")
        output = (UNPACKED / name / "VERSION").read_text().strip().rpartition("-")[0]
    for mark in ("+dfsg", "~dfsg", "+ds", "+deb", "+git", "+really"):
        output = output.partition(mark)[0]
    return output.rpartition(":")[2]


def _lines(seen):
    """seen: what was seen of each host, with the words for it."""
    openssl = subprocess.check_output(["openssl", "version"], text=True).split()[1]
    debian = pathlib.Path("/etc/debian_version").read_text().strip()
    today = datetime.date.today().isoformat()
    yield f"Seen on {today} with Debian {debian} and OpenSSL {openssl}, as Debian runs each server."
    yield ""
    yield "| server | version | how | " + " | ".join(COLUMNS) + " |"
    yield "|---" * (3 + len(COLUMNS)) + "|"
    for name, host in HOSTS.items():
        if FIRST not in seen.get(name, {}):
            continue
        version = seen[name].get("version") or _version(host)
        cells = [seen[name].get(column, "–") for column in COLUMNS]
        yield f"| {host.title} | {version} | {host.how} | " + " | ".join(cells) + " |"


def _lines_out(seen):
    yield "| server | version | `ocspctl doctor PID` |"
    yield "|---|---|---|"
    for name, host in HOSTS.items():
        if WHY_NOT in seen.get(name, {}):
            yield f"| {host.title} | {_version(host)} | {seen[name][WHY_NOT]} |"


def _replace(text, begin, end, lines):
    head, rest = text.split(begin)
    table = "\n".join(lines)
    return f"{head}{begin}\n\n{table}\n\n{end}{rest.split(end)[1]}"


def rows(text, begin, end):
    """The cells of a table in the document."""
    lines = text.partition(begin)[2].partition(end)[0].splitlines()
    table = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in table[2:]]


def write(reports):
    """reports: pytest's, of the tests that passed."""
    seen = {}
    for report in reports:
        for key, value in report.user_properties:
            if key.startswith("seen "):
                name, _, what = key[len("seen ") :].partition(" ")
                found = seen.setdefault(name, {})
                # Without the agent says more than with it.
                found[what] = min(found.get(what, value), value, key=len)
    text = _replace(FILE.read_text(), BEGIN, END, _lines(seen))
    FILE.write_text(_replace(text, BEGIN_OUT, END_OUT, _lines_out(seen)))


def is_wanted():
    return bool(os.environ.get("OCSPRELOAD_WRITE_DOCS"))
