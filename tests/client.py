# SPDX-License-Identifier: MIT
"""A TLS client that asks for a staple, and a judge who trusts nobody."""

import dataclasses
import hashlib
import re
import socket
import subprocess
import time
import typing

import ca
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL
from OpenSSL._util import lib
from servers import BUILD, PLAIN_ENVIRONMENT
from support import seconds_since, wait_until

VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
# By kind of key; TLS 1.3 takes its choice from the signature algorithms, TLS 1.2 from the suites.
SIGNATURES = {"rsa": b"RSA-PSS+SHA256:RSA+SHA256", "ec": b"ECDSA+SHA256"}
SUITES = {"rsa": b"aRSA", "ec": b"aECDSA"}


@dataclasses.dataclass
class Handshake:
    staple: bytes  # None if there was none
    version: str
    serial: int
    resumed: bool
    seconds: float  # but for those in which the machine stood still
    session: typing.Any = None
    answer: bytes = b""

    @property
    def stapled(self):
        return self.staple is not None

    @property
    def body(self):
        """Of an answer in HTTP."""
        return self.answer.partition(b"\r\n\r\n")[2]


@dataclasses.dataclass
class Talk:
    """
    What is said in the clear before TLS begins (pairs of what to say and what to wait for), what is
    asked in TLS, and what the answer to that ends with if the server does not hang up; listens is
    False where there is none.
    """

    opening: tuple = ()
    request: bytes = b"GET / HTTP/1.0\r\n\r\n"
    end: bytes = b""
    listens: bool = True

    def open(self, raw):
        for words, end in self.opening:
            raw.sendall(words)
            answer = b""
            # By the byte: what comes after it belongs to TLS.
            while not answer.endswith(end):
                byte = raw.recv(1)
                assert byte, f"hung up after {answer}"
                answer += byte


class Client:
    """One configuration of a client; several connections may share it, and must to resume."""

    def __init__(self, tls=None, kind=None, ask=True, identity=None):
        self._ask = ask
        self._staple = None
        self._context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        if tls:
            self._context.set_min_proto_version(VERSIONS[tls])
            self._context.set_max_proto_version(VERSIONS[tls])
        if kind:
            self._context.set_cipher_list(SUITES[kind])
            assert lib.SSL_CTX_set1_sigalgs_list(self._context._context, SIGNATURES[kind]) == 1
        if identity:
            self._context.use_certificate_file(str(identity.certificate_file))
            self._context.use_privatekey_file(str(identity.key_file))
        if ask:
            self._context.set_ocsp_client_callback(self._take_staple)

    def _take_staple(self, connection, staple, data):
        self._staple = staple or None
        return True

    def handshake(self, port, sni="localhost", session=None, timeout=60, talk=None):
        """talk tells what to say to a server that is not for the web; see Talk."""
        talk = talk or Talk()
        self._staple = None
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", port), timeout) as raw:
            raw.settimeout(None)  # pyOpenSSL cannot wait on a socket with a timeout
            raw.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout.to_bytes(8, "little") + bytes(8)
            )
            talk.open(raw)
            connection = SSL.Connection(self._context, raw)
            connection.set_connect_state()
            if sni:
                connection.set_tlsext_host_name(sni.encode())
            if session:
                connection.set_session(session)
            if self._ask:
                connection.request_ocsp()
            _persist(connection.do_handshake, began, timeout)
            seconds = seconds_since(began)
            # A request, because the tickets of TLS 1.3 come after the handshake.
            connection.sendall(talk.request)
            answer = _receive(connection, talk.end, timeout) if talk.listens else b""
            result = Handshake(
                staple=self._staple,
                version=connection.get_protocol_version_name(),
                serial=connection.get_peer_certificate().get_serial_number(),
                resumed=lib.SSL_session_reused(connection._ssl) == 1,
                seconds=seconds,
                session=connection.get_session(),
                answer=answer,
            )
            try:
                connection.shutdown()
            except SSL.Error:
                pass
            return result


def _persist(do, began, timeout):
    """A socket with a timeout gives up as well when its process has been stopped, and goes on."""
    while True:
        try:
            return do()
        except SSL.WantReadError:
            if seconds_since(began) >= timeout:
                raise


def _receive(connection, end, timeout):
    """Until the server hangs up, or has said end."""
    data = b""
    began = time.monotonic()
    try:
        while not end or end not in data:
            data += _persist(lambda: connection.recv(4096), began, timeout)
    except (SSL.ZeroReturnError, SSL.SysCallError):
        pass
    return data


def handshake(port, sni="localhost", session=None, talk=None, **options):
    return Client(**options).handshake(port, sni, session, talk=talk)


# The judge. It shares no code with the shim: Python's cryptography, and the openssl command.


def _verify(public_key, signature, algorithm, data):
    try:
        if isinstance(public_key, ec.EllipticCurvePublicKey):
            public_key.verify(signature, data, ec.ECDSA(algorithm))
        else:
            public_key.verify(signature, data, padding.PKCS1v15(), algorithm)
    except InvalidSignature:
        return False
    return True


def _signer_of(response, issuer):
    """The public key that may sign for issuer and is named by the response (RFC 6960, 4.2.2.2)."""
    for candidate in [issuer] + list(response.certificates):
        digest = x509.SubjectKeyIdentifier.from_public_key(candidate.public_key()).digest
        if response.responder_key_hash not in (None, digest):
            continue
        if response.responder_name not in (None, candidate.subject):
            continue
        if candidate == issuer:
            return candidate
        assert candidate.issuer == issuer.subject
        assert _verify(
            issuer.public_key(),
            candidate.signature,
            candidate.signature_hash_algorithm,
            candidate.tbs_certificate_bytes,
        )
        assert ExtendedKeyUsageOID.OCSP_SIGNING in _usages(candidate)
        assert candidate.not_valid_before <= ca.now() <= candidate.not_valid_after
        return candidate
    raise AssertionError("the response names no signer that is known")


def _usages(certificate):
    try:
        return certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return []


def _hash_of(algorithm, data):
    return hashlib.new(algorithm.name, data).digest()


def _key_bits(certificate):
    """The subjectPublicKey without tag, length and unused bits, as CertID hashes it."""
    public_key = certificate.public_key()
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return public_key.public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
    return public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)


def assert_strict(staple, leaf, tmp_path):
    """Fails unless a strict client would accept staple for leaf now."""
    assert staple is not None, "no staple"
    issuer = leaf.authority.certificate
    response = ocsp.load_der_ocsp_response(staple)
    assert response.response_status == ocsp.OCSPResponseStatus.SUCCESSFUL
    assert response.certificate_status == ocsp.OCSPCertStatus.GOOD
    assert response.serial_number == leaf.serial
    assert response.issuer_name_hash == _hash_of(
        response.hash_algorithm, issuer.subject.public_bytes()
    )
    assert response.issuer_key_hash == _hash_of(response.hash_algorithm, _key_bits(issuer))
    assert response.this_update <= ca.now() + ca.seconds(1)
    if response.next_update:
        assert response.next_update >= ca.now() - ca.seconds(1)
    signer = _signer_of(response, issuer)
    assert _verify(
        signer.public_key(),
        response.signature,
        response.signature_hash_algorithm,
        response.tbs_response_bytes,
    )
    _assert_openssl_agrees(staple, leaf, tmp_path)


def _assert_openssl_agrees(staple, leaf, tmp_path):
    file = tmp_path / f"staple-{hashlib.sha256(staple).hexdigest()[:16]}.der"
    file.write_bytes(staple)
    result = subprocess.run(
        ["openssl", "ocsp", "-respin", str(file), "-no_nonce"]
        + ["-issuer", str(leaf.authority.file), "-cert", str(leaf.certificate_file)]
        + ["-CAfile", str(leaf.authority.file), "-partial_chain", "-no-CApath", "-no-CAstore"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Response verify OK" in result.stderr, result.stderr
    assert f"{leaf.certificate_file}: good" in result.stdout, result.stdout


# openssl s_client, for what pyOpenSSL cannot do


@dataclasses.dataclass
class SClient:
    output: str
    exit_code: int

    @property
    def client_hellos(self):
        return len(re.findall(r"^>>> .*, ClientHello$", self.output, re.MULTILINE))

    @property
    def good_serial(self):
        """The serial for which a good response was stapled, or None."""
        if "OCSP Response Status: successful" not in self.output:
            return None
        serial = re.search(r"Serial Number: ([0-9A-F]+)\s+Cert Status: good", self.output)
        return int(serial.group(1), 16) if serial else None


def s_client(port, *options, environment=None):
    result = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-status", *options],
        input="",
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=120,
        env=environment,
    )
    return SClient(result.stdout + result.stderr, result.returncode)


# tests/hosts/load, for more handshakes than Python can do


class Load:
    """Handshakes with a server at a constant rate, from so many threads, until the end."""

    def __init__(self, port, threads=2, rate=200):
        self._port = port
        self._threads = threads
        self._pause = int(1e6 * threads / rate)
        self._process = None
        self.counts = {}

    def __enter__(self):
        command = [BUILD / "hosts" / "load", self._port, self._threads, self._pause]
        self._process = subprocess.Popen(
            [str(word) for word in command],
            env=PLAIN_ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def look(self):
        """What became of the handshakes so far, by the names that load.c explains."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._take(self._process.stdout.readline())

    def _take(self, line):
        words = line.split()
        self.counts = dict(zip(words[::2], map(int, words[1::2])))
        return self.counts

    def __exit__(self, *exception):
        output, _ = self._process.communicate()
        self._take(output)

    @property
    def done(self):
        return self.counts["stapled"] + self.counts["unstapled"]

    def __str__(self):
        return " ".join(f"{name} {count}" for name, count in self.counts.items())


def staples_until(server, responder, leaf, count):
    """Every handshake is stapled, until the responder was asked so often."""

    def is_asked():
        assert handshake(server.port).stapled, server.log()
        return responder.count(leaf) >= count

    wait_until(is_asked, what=server.log)
