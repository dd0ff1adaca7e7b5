# SPDX-License-Identifier: MIT
"""
A responder that misbehaves on command.

A behaviour is a function from a Leaf to an Answer. Those that make a body (good, revoked, expired…)
come first; those that change what another behaviour answers (status, delayed, chunked…) take it as
an argument, so that chunked(delayed(1, good())) is one more.
"""

import base64
import binascii
import dataclasses
import http.server
import select
import socketserver
import subprocess
import threading
import time
import typing
import urllib.parse

import ca
from cryptography.x509 import ocsp
from support import free_port, wait_until

CONTENT_TYPE = "application/ocsp-response"


# What goes over the wire


@dataclasses.dataclass
class Answer:
    body: bytes
    status: int = 200
    content_type: str = CONTENT_TYPE
    headers: tuple = ()
    delay: float = 0
    write: typing.Callable = None  # (connection, answer); write_with_length if None

    def head(self, *more):
        lines = [f"HTTP/1.1 {self.status} {http.server.HTTPStatus(self.status).phrase}"]
        if self.content_type:
            lines.append(f"Content-Type: {self.content_type}")
        lines += [f"{name}: {value}" for name, value in self.headers + more]
        return "\r\n".join(lines).encode() + b"\r\n\r\n"


class Connection:
    """One client's connection, for the functions that write to it."""

    def __init__(self, client, stopping):
        self.client = client
        self.stopping = stopping

    def send(self, data):
        self.client.sendall(data)

    def wait(self, timeout=None):
        """True if nothing happened for timeout seconds; None waits for one side to end it."""
        end = None if timeout is None else time.monotonic() + timeout
        while end is None or time.monotonic() < end:
            if self.stopping.is_set() or select.select([self.client], [], [], 0.02)[0]:
                return False
        return True


# A function that writes returns true where the connection may carry another exchange.


def write_with_length(connection, answer):
    connection.send(answer.head(("Content-Length", len(answer.body))) + answer.body)
    return ("Connection", "close") not in answer.headers


def write_and_close(connection, answer):
    """Without having said that it will."""
    write_with_length(connection, answer)


def write_as_1_0(connection, answer):
    data = answer.head(("Content-Length", len(answer.body)))
    connection.send(data.replace(b"HTTP/1.1", b"HTTP/1.0", 1) + answer.body)


def write_twice(connection, answer):
    """The second is one that somebody would like to see taken for the answer to another request."""
    whole = answer.head(("Content-Length", len(answer.body))) + answer.body
    connection.send(whole + whole)
    return True


def write_until_close(connection, answer):
    connection.send(answer.head(("Connection", "close")) + answer.body)


def write_chunked(connection, answer):
    connection.send(answer.head(("Transfer-Encoding", "chunked")))
    for start in range(0, len(answer.body), 100):
        piece = answer.body[start : start + 100]
        connection.send(b"%x;name=value\r\n%s\r\n" % (len(piece), piece))
    connection.send(b"0\r\nTrailer: field\r\n\r\n")
    return True


def write_truncated(connection, answer):
    length = ("Content-Length", len(answer.body))
    connection.send(answer.head(length) + answer.body[: len(answer.body) // 2])


def write_dripping(connection, answer):
    data = answer.head(("Content-Length", len(answer.body))) + answer.body
    for byte in data:
        connection.send(bytes([byte]))
        if not connection.wait(0.1):
            return


def write_endless(connection, answer):
    connection.send(answer.head(("Connection", "close")))
    while not connection.stopping.is_set():
        connection.send(answer.body + bytes(65536))


def write_body_alone(connection, answer):
    connection.send(answer.body)


def write_nothing(connection, answer):
    """Closes at once."""


def hold_on(connection, answer):
    connection.wait()


# Behaviours that make a body


def good(validity=3600, **options):
    return lambda leaf: Answer(
        leaf.authority.respond(leaf.certificate, next_update=validity, **options)
    )


def soon_due(validity=12, **options):
    """
    Half of its life is over in a second or two, and then it is asked for again, within four; but it
    does not end for long, so that no staple is missed on a machine that stands still for a while.
    """
    return good(validity, this_update=4 - validity, **options)


def revoked(validity=3600, **options):
    return good(validity, status="revoked", **options)


def unknown(validity=3600, **options):
    return good(validity, status="unknown", **options)


def expired():
    return good(-60, this_update=-3600)


def not_yet_valid():
    return good(7200, this_update=3600)


def times_reversed():
    return good(-60, this_update=-30)


def without_next_update():
    return good("absent")


def wrong_serial():
    return lambda leaf: Answer(leaf.authority.respond(leaf.authority.sibling(leaf.certificate)))


def bad_signature():
    def answer(leaf):
        der = bytearray(leaf.authority.respond(leaf.certificate))
        der[-5] ^= 1
        return Answer(bytes(der))

    return answer


def signed_by_stranger():
    """The right names and hashes, the wrong key."""
    stranger = ca.key("ec", "stranger")

    def answer(leaf):
        authority = leaf.authority
        signer = ca.Signer(stranger, authority.certificate, False)
        return Answer(authority.respond(leaf.certificate, signer=signer))

    return answer


def signed_by_leaf():
    """The subject vouches for itself: issued by the CA, but never given its authority."""

    def answer(leaf):
        signer = ca.Signer(leaf.key, leaf.certificate, True)
        return Answer(leaf.authority.respond(leaf.certificate, signer=signer))

    return answer


def delegated(usage="ocsp", validity=3600, by_hash=True, **signer):
    return lambda leaf: Answer(
        leaf.authority.respond(
            leaf.certificate,
            next_update=validity,
            signer=leaf.authority.delegate(usage, **signer),
            by_hash=by_hash,
        )
    )


def error(status):
    return lambda leaf: Answer(ca.error_response(status))


def bytes_of(body, content_type=CONTENT_TYPE):
    return lambda leaf: Answer(body, content_type=content_type)


def empty():
    return bytes_of(b"")


def html():
    return bytes_of(b"<html><body>Log in to the network</body></html>", "text/html")


def garbage():
    return bytes_of(bytes(range(256)))


# Behaviours that change another's answer


def _changed(behaviour, **fields):
    return lambda leaf: dataclasses.replace(behaviour(leaf), **fields)


def delayed(seconds, behaviour):
    return _changed(behaviour, delay=seconds)


def http_status(status, behaviour):
    return _changed(behaviour, status=status)


def content_type(text, behaviour):
    return _changed(behaviour, content_type=text)


def headers(behaviour, *more):
    """more: pairs of name and value."""

    def answer(leaf):
        whole = behaviour(leaf)
        return dataclasses.replace(whole, headers=whole.headers + more)

    return answer


def chunked(behaviour):
    return _changed(behaviour, write=write_chunked)


def closing(behaviour):
    return headers(behaviour, ("Connection", "close"))


def closing_unsaid(behaviour):
    return _changed(behaviour, write=write_and_close)


def as_1_0(behaviour):
    return _changed(behaviour, write=write_as_1_0)


def twice(behaviour):
    return _changed(behaviour, write=write_twice)


def close_delimited(behaviour):
    return _changed(behaviour, write=write_until_close)


def dripping(behaviour):
    return _changed(behaviour, write=write_dripping)


def truncated(behaviour):
    """HTTP promises more than comes."""
    return _changed(behaviour, write=write_truncated)


def endless(behaviour):
    return _changed(behaviour, write=write_endless)


def without_http(behaviour):
    return _changed(behaviour, write=write_body_alone)


def hanging():
    return lambda leaf: Answer(b"", write=hold_on)


def hanging_up():
    return lambda leaf: Answer(b"", write=write_nothing)


def redirect(location, status=302):
    return lambda leaf: Answer(b"", status=status, headers=(("Location", location),))


def body_cut(behaviour, size):
    """HTTP is fine, the DER ends too soon."""

    def answer(leaf):
        whole = behaviour(leaf)
        return dataclasses.replace(whole, body=whole.body[:size])

    return answer


def trailing(behaviour, more=b"\0"):
    """Bytes after the DER, inside the body."""

    def answer(leaf):
        whole = behaviour(leaf)
        return dataclasses.replace(whole, body=whole.body + more)

    return answer


# The responder


@dataclasses.dataclass
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: typing.Any
    der: bytes
    request: typing.Any = None  # ocsp.OCSPRequest, None if it is none
    client: tuple = ()  # address and port: a connection
    at: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def serial(self):
        return self.request.serial_number if self.request else None

    @property
    def hash_name(self):
        return self.request.hash_algorithm.name

    @property
    def has_nonce(self):
        return any(extension.oid.dotted_string.endswith("48.1.2")
                   for extension in self.request.extensions)

    @property
    def host(self):
        return self.headers.get("Host")


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10

    def setup(self):
        super().setup()
        if self.server.responder.one_at_a_time:
            self.server.turn.acquire()
        self.server.responder._connections(1)

    def finish(self):
        self.server.responder._connections(-1)
        if self.server.responder.one_at_a_time:
            self.server.turn.release()
        super().finish()

    def handle_one_request(self):
        """Waits for it in a way that stop() can end."""
        idle = Connection(self.connection, self.server.stopping)
        if idle.wait(self.server.responder.patience) or self.server.stopping.is_set():
            self.close_connection = True
        else:
            super().handle_one_request()

    def do_GET(self):
        text = urllib.parse.unquote(self.path.rpartition("/")[2])
        try:
            self._serve(base64.b64decode(text, validate=True))
        except binascii.Error:
            self._serve(b"")

    def do_POST(self):
        self._serve(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _serve(self, der):
        asks_to_close, self.close_connection = self.close_connection, True
        asked = Asked(self.command, self.path, self.headers, der, client=self.client_address)
        try:
            asked.request = ocsp.load_der_ocsp_request(der)
        except ValueError:
            pass
        answer = self.server.responder._answer_to(asked)
        connection = Connection(self.connection, self.server.stopping)
        if answer.delay and not connection.wait(answer.delay):
            return
        try:
            keeps = (answer.write or write_with_length)(connection, answer)
        except OSError:
            return
        self.close_connection = asks_to_close or not keeps

    def log_message(self, *arguments):
        pass


class _Server(http.server.ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = True
    request_queue_size = 64

    def server_bind(self):
        # HTTPServer's would look up its own name.
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request, client_address):
        pass


class Responder:
    """Answers for what it has been told; "unauthorized" for the rest, as RFC 5019, 2.2.3 says."""

    def __init__(self, address="127.0.0.1"):
        self._behaviours = {}
        self._leaves = {}
        self._lock = threading.Lock()
        self._server = None
        self.address = address
        self.port = free_port()
        self.asked = []
        self.patience = 10  # seconds that a connection may be idle
        self.one_at_a_time = False  # other connections wait until it has ended
        self.connections = 0  # ever accepted
        self.open = 0  # of them, now
        self.most_open = 0

    def start(self):
        self._server = _Server((self.address, self.port), _Handler)
        self._server.responder = self
        self._server.stopping = threading.Event()
        self._server.turn = threading.Lock()
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()
        return self

    def stop(self):
        """Refuses connections, and hangs up on those that there are; start() resumes."""
        if not self._server:
            return
        self._server.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server = None

    __enter__ = start

    def __exit__(self, *exception):
        self.stop()

    @property
    def url(self):
        return f"http://{self.address}:{self.port}/"

    def answer(self, leaf, behaviour):
        """From now on."""
        with self._lock:
            self._leaves[leaf.serial] = leaf
            self._behaviours[leaf.serial] = behaviour

    def asked_for(self, leaf):
        with self._lock:
            return [asked for asked in self.asked if asked.serial == leaf.serial]

    def count(self, leaf):
        return len(self.asked_for(leaf))

    def _connections(self, change):
        with self._lock:
            self.connections += max(change, 0)
            self.open += change
            self.most_open = max(self.most_open, self.open)

    def _answer_to(self, asked):
        with self._lock:
            self.asked.append(asked)
            leaf = self._leaves.get(asked.serial)
            behaviour = self._behaviours.get(asked.serial, error("UNAUTHORIZED"))
        return behaviour(leaf)


class OpensslResponder:
    """A real `openssl ocsp` that knows the leaves it is given as good, or revoked, for days."""

    def __init__(self, directory, authority):
        self.authority = authority
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self._index = directory / "index.txt"
        self._key = directory / "signer.key"
        self._log = directory / "responder.log"
        self._process = None
        self._index.write_text("")
        self._key.write_bytes(ca.pem(authority.key))

    def add(self, leaf, revoked=False):
        end = leaf.certificate.not_valid_after.strftime("%y%m%d%H%M%SZ")
        state = f"R\t{end}\t{ca.now():%y%m%d%H%M%SZ}" if revoked else f"V\t{end}\t"
        serial = f"{leaf.serial:X}"
        serial = serial.zfill(len(serial) + len(serial) % 2)
        with self._index.open("a") as index:
            index.write(f"{state}\t{serial}\tunknown\t/CN=leaf\n")

    def start(self):
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["openssl", "ocsp", "-port", str(self.port), "-index", str(self._index)]
                + ["-CA", str(self.authority.file), "-rsigner", str(self.authority.file)]
                + ["-rkey", str(self._key), "-nmin", "60", "-text"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        # Not by connecting: OpenSSL 3.0's never gets over a connection that asks nothing.
        wait_until(lambda: "waiting for" in self._log.read_text(), what="openssl ocsp listens")
        return self

    def stop(self):
        if self._process:
            self._process.terminate()
            self._process.wait()
            self._process = None

    @property
    def count(self):
        """How many responses it has sent so far."""
        return self._log.read_text(errors="replace").count("OCSP Response Data:")
