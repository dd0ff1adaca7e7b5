# SPDX-License-Identifier: MIT
"""Where a CA keeps its own certificates for caIssuers to point to: a web server, good or not."""

import http.server
import threading

from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from responder import Answer, Connection, hold_on, write_endless, write_with_length
from support import free_port


def der(*certificates):
    return certificates[0].public_bytes(Encoding.DER)


def pem(*certificates):
    return b"".join(c.public_bytes(Encoding.PEM) for c in certificates)


def pkcs7_der(*certificates):
    return pkcs7.serialize_certificates(list(certificates), Encoding.DER)


def pkcs7_pem(*certificates):
    return pkcs7.serialize_certificates(list(certificates), Encoding.PEM)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_GET(self):
        self.close_connection = True
        repository = self.server.repository
        with repository.lock:
            repository.asked.append(self.path)
            repository.accepted.append(self.headers.get("Accept"))
        nothing = Answer(b"not here", status=404, content_type="text/plain")
        answer = repository.answers.get(self.path, nothing)
        connection = Connection(self.connection, self.server.stopping)
        if answer.delay and not connection.wait(answer.delay):
            return
        try:
            (answer.write or write_with_length)(connection, answer)
        except OSError:
            pass

    def log_message(self, *arguments):
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = True
    request_queue_size = 64


class Repository:
    def __init__(self):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.answers = {}
        self.asked = []
        self.accepted = []
        self.lock = threading.Lock()
        self._server = None

    def put(self, path, body, **options):
        """Returns the URL."""
        self.answers[path] = Answer(body, content_type="application/pkix-cert", **options)
        return self.url + path

    def put_hanging(self, path):
        return self.put(path, b"", write=hold_on)

    def put_endless(self, path):
        return self.put(path, b"0", write=write_endless)

    def put_redirect(self, path, location):
        return self.put(path, b"", status=302, headers=(("Location", location),))

    def start(self):
        self._server = _Server(("127.0.0.1", self.port), _Handler)
        self._server.repository = self
        self._server.stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()
        return self

    def stop(self):
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
