# SPDX-License-Identifier: MIT
"""
A host that uses OpenSSL's functions one by one, whatever the release: through ctypes, with its own
client in the same process.

usage: host.py LIBSSL WAY FILE...

WAY is one of the functions below. Prints JSON: for each handshake the client's list of responses
(base64; null where a certificate has none), or "failed".
"""

import base64
import ctypes
import json
import os
import socket
import sys
import time

OK, FATAL, NOACK = 0, 2, 3
PEM = 1
SET_RESPONSE, GET_RESPONSE, GET_RESPONSES = 71, 70, 142
EXTRA_CHAIN_CERT, CLEAR_EXTRA_CHAIN_CERTS, CHAIN_CERT = 14, 83, 89
SET_SERVERNAME_CALLBACK, SET_SERVERNAME = 53, 55
SET_STATUS_TYPE, SET_STATUS_CALLBACK, SET_STATUS_ARGUMENT = 65, 63, 64
GET_STATUS_CALLBACK, GET_STATUS_ARGUMENT = 128, 129
SET_LEAST_VERSION, SET_MOST_VERSION = 123, 124
TLS1_2, TLS1_3 = 0x303, 0x304
POINTER = ctypes.c_void_p
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, POINTER, POINTER)
CALLBACK3 = ctypes.CFUNCTYPE(ctypes.c_int, POINTER, POINTER, POINTER)


class Library:
    """What a program that is linked with this libssl reaches: the shim's functions come first."""

    def __init__(self, path):
        self._handle = ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
        shim = os.environ.get("LD_PRELOAD")
        self._shim = ctypes.CDLL(shim) if shim else None
        self.kept = []

    def __getattr__(self, name):
        return self._wrap(getattr(self._shim, name, None) or getattr(self._handle, name))

    def pass_hooks(self):
        """From now on this is a program that asks dlsym for everything."""
        self._shim = None

    def behind(self, name):
        """As a program reaches it that asks dlsym: past all hooks."""
        return self._wrap(getattr(self._handle, name))

    def _wrap(self, function):
        function.restype = ctypes.c_ssize_t

        def call(*arguments):
            words = [ctypes.c_ssize_t(word) if isinstance(word, int) else word
                     for word in arguments]  # fmt: skip
            result = function(*words)
            if result == 0xFFFFFFFF:
                result = -1
            return result

        return call

    def keep(self, callback):
        self.kept.append(callback)
        return callback

    def certificates(self, file):
        bio = self.BIO_new_file(file, b"r")
        check(bio, "no such file")
        while True:
            x = self.PEM_read_bio_X509(bio, None, None, None)
            if not x:
                break
            yield x
        self.BIO_free(bio)
        self.ERR_clear_error()


LIB = Library(sys.argv[1])
FILES = [name.encode() for name in sys.argv[3:]]
CHAIN, KEY = FILES[0], FILES[1]  # the leaf and what comes after it
RESULTS = []


def check(truth, what):
    if not truth:
        raise AssertionError(what)


def server_context(*, loaded=True, method="TLS_server_method"):
    ctx = LIB.SSL_CTX_new(getattr(LIB, method)())
    if loaded:
        load(ctx)
    return ctx


def load(ctx, chain=CHAIN, key=KEY):
    check(LIB.SSL_CTX_use_certificate_chain_file(ctx, chain) == 1, "the certificate")
    check(LIB.SSL_CTX_use_PrivateKey_file(ctx, key, PEM) == 1, "the key")


def load_connection(ssl, chain=CHAIN, key=KEY):
    check(LIB.SSL_use_certificate_chain_file(ssl, chain) == 1, "the certificate")
    check(LIB.SSL_use_PrivateKey_file(ssl, key, PEM) == 1, "the key")


def new_client(version=0):
    ctx = LIB.SSL_CTX_new(LIB.TLS_client_method())
    LIB.SSL_CTX_ctrl(ctx, SET_MOST_VERSION, version, None)
    client = LIB.SSL_new(ctx)
    LIB.SSL_CTX_free(ctx)
    LIB.SSL_ctrl(client, SET_STATUS_TYPE, 1, None)
    LIB.SSL_ctrl(client, SET_SERVERNAME, 0, b"localhost")
    return client


def encode(size, data):
    return base64.b64encode(ctypes.string_at(data, size)).decode()


def encode_response(response):
    data = POINTER()
    size = LIB.i2d_OCSP_RESPONSE(response, ctypes.byref(data))
    return encode(size, data)


def staples(client):
    data = POINTER()
    count = LIB.SSL_ctrl(client, GET_RESPONSES, 0, ctypes.byref(data))
    if count > 0 and data.value:
        found = [LIB.OPENSSL_sk_value(data.value, number) for number in range(count)]
        return [encode_response(response) if response else None for response in found]
    size = LIB.SSL_ctrl(client, GET_RESPONSE, 0, ctypes.byref(data))
    return [encode(size, data)] if size > 0 and data.value else []


def connect(server, client):
    ends = POINTER(), POINTER()
    LIB.BIO_new_bio_pair(ctypes.byref(ends[0]), 1 << 17, ctypes.byref(ends[1]), 1 << 17)
    LIB.SSL_set_bio(server, ends[0], ends[0])
    LIB.SSL_set_bio(client, ends[1], ends[1])
    LIB.SSL_set_accept_state(server)
    LIB.SSL_set_connect_state(client)


def shake(server, client):
    """True if both ends have come to the end of their handshake."""
    for _ in range(20):
        LIB.ERR_clear_error()
        mine = ctypes.c_int(LIB.SSL_do_handshake(client)).value
        wants = LIB.SSL_get_error(client, mine) if mine != 1 else 0
        LIB.ERR_clear_error()
        other = ctypes.c_int(LIB.SSL_do_handshake(server)).value
        if other == 1:
            check(LIB.ERR_peek_error() == 0, "the error queue is not empty")
        if mine == 1 and other == 1:
            return True
        if wants not in (0, 2):
            return False
    return False


def handshake(server, client=None, version=0):
    """Prints what the client saw; frees nothing that is given to it."""
    client_of_mine = client or new_client(version)
    connect(server, client_of_mine)
    done = shake(server, client_of_mine)
    RESULTS.append(staples(client_of_mine) if done else "failed")
    if not client:
        LIB.SSL_free(client_of_mine)
    return done


def serve(ctx, version=0):
    """One handshake of a context."""
    server = LIB.SSL_new(ctx)
    done = handshake(server, version=version)
    LIB.SSL_free(server)
    return done


def serve_both(ctx):
    for version in (TLS1_3, TLS1_2):
        serve(ctx, version)


# The ways in.


def SSL_CONF_cmd():
    ctx = server_context(loaded=False)
    conf = LIB.SSL_CONF_CTX_new()
    LIB.SSL_CONF_CTX_set_flags(conf, 0x2 | 0x8 | 0x20)  # file, server, certificate
    LIB.SSL_CONF_CTX_set_ssl_ctx(conf, ctx)
    check(LIB.SSL_CONF_cmd(conf, b"Certificate", CHAIN) == 2, "Certificate")
    check(LIB.SSL_CONF_cmd(conf, b"PrivateKey", KEY) == 2, "PrivateKey")
    LIB.SSL_CONF_CTX_finish(conf)
    LIB.SSL_CONF_CTX_free(conf)
    serve_both(ctx)


def SSL_CONF_cmd_argv():
    ctx = server_context(loaded=False)
    conf = LIB.SSL_CONF_CTX_new()
    LIB.SSL_CONF_CTX_set_flags(conf, 0x1 | 0x8 | 0x20)  # command line, server, certificate
    LIB.SSL_CONF_CTX_set_ssl_ctx(conf, ctx)
    words = (ctypes.c_char_p * 5)(b"-cert", CHAIN, b"-key", KEY, None)
    at, left = ctypes.pointer(words), ctypes.c_int(4)
    for _ in range(2):
        used = LIB.SSL_CONF_cmd_argv(conf, ctypes.byref(left), ctypes.byref(at))
        check(used == 2, f"{used} words used")
    LIB.SSL_CONF_CTX_free(conf)
    serve_both(ctx)


def SSL_CONF_CTX_free():
    """The next SSL_CONF_CTX often has the address of the last, and here no context."""
    for _ in range(100):
        ctx = server_context(loaded=False)
        conf = LIB.SSL_CONF_CTX_new()
        LIB.SSL_CONF_CTX_set_ssl_ctx(conf, ctx)
        LIB.SSL_CTX_free(ctx)
        LIB.SSL_CONF_CTX_free(conf)
        conf = LIB.SSL_CONF_CTX_new()
        LIB.SSL_CONF_CTX_set_flags(conf, 0x2 | 0x8 | 0x20)  # file, server, certificate
        check(LIB.SSL_CONF_cmd(conf, b"Options", b"ServerPreference") == 2, "Options")
        LIB.SSL_CONF_CTX_free(conf)
    serve_both(server_context())


def SSL_CTX_config():
    """OPENSSL_CONF names the file."""
    ctx = server_context(loaded=False)
    check(LIB.SSL_CTX_config(ctx, b"server") == 1, "SSL_CTX_config")
    serve_both(ctx)


def SSL_config():
    ctx = server_context(loaded=False)
    for version in (TLS1_3, TLS1_2):
        server = LIB.SSL_new(ctx)
        check(LIB.SSL_config(server, b"server") == 1, "SSL_config")
        handshake(server, version=version)


def cert_cb():
    ctx = server_context(loaded=False)

    def choose(ssl, _):
        load_connection(ssl)
        return 1

    LIB.SSL_CTX_set_cert_cb(ctx, LIB.keep(CALLBACK(choose)), None)
    serve_both(ctx)


def client_hello_cb():
    ctx = server_context(loaded=False)

    def choose(ssl, _alert, _argument):
        load_connection(ssl)
        return 1

    LIB.SSL_CTX_set_client_hello_cb(ctx, LIB.keep(CALLBACK3(choose)), None)
    serve_both(ctx)


def SSL_set_SSL_CTX():
    other = server_context()
    # As in nginx, the first one has a certificate too; but one that is never stapled.
    ctx = server_context(loaded=False)
    load(ctx, FILES[2], FILES[3])

    def choose(ssl, _alert, _argument):
        LIB.SSL_set_SSL_CTX(ssl, other)
        return OK

    LIB.SSL_CTX_callback_ctrl(ctx, SET_SERVERNAME_CALLBACK, LIB.keep(CALLBACK3(choose)))
    serve_both(ctx)


def SSL_dup():
    ctx = server_context()
    for version in (TLS1_3, TLS1_2):
        first = LIB.SSL_new(ctx)
        LIB.SSL_set_accept_state(first)
        second = LIB.SSL_dup(first)
        LIB.SSL_free(first)
        handshake(second, version=version)


def chain_before():
    ctx = server_context(loaded=False)
    for x in LIB.certificates(FILES[2]):
        LIB.SSL_CTX_ctrl(ctx, EXTRA_CHAIN_CERT, 0, x)
    check(LIB.SSL_CTX_use_certificate_file(ctx, CHAIN, PEM) == 1, "the certificate")
    check(LIB.SSL_CTX_use_PrivateKey_file(ctx, KEY, PEM) == 1, "the key")
    serve_until_all(ctx)
    serve(ctx, TLS1_2)


def chain_after():
    """Also what an old host does to load another chain: it clears the first."""
    ctx = server_context(loaded=False)
    check(LIB.SSL_CTX_use_certificate_file(ctx, CHAIN, PEM) == 1, "the certificate")
    check(LIB.SSL_CTX_use_PrivateKey_file(ctx, KEY, PEM) == 1, "the key")
    for _ in range(2):
        LIB.SSL_CTX_ctrl(ctx, CLEAR_EXTRA_CHAIN_CERTS, 0, None)
        for x in LIB.certificates(FILES[2]):
            LIB.SSL_CTX_ctrl(ctx, EXTRA_CHAIN_CERT, 0, x)
    serve_until_all(ctx)
    serve(ctx, TLS1_2)


def chain_inside():
    ctx = server_context(loaded=False)

    def choose(ssl, _):
        check(LIB.SSL_use_certificate_file(ssl, CHAIN, PEM) == 1, "the certificate")
        check(LIB.SSL_use_PrivateKey_file(ssl, KEY, PEM) == 1, "the key")
        for x in LIB.certificates(FILES[2]):
            LIB.SSL_ctrl(ssl, CHAIN_CERT, 0, x)
        return 1

    LIB.SSL_CTX_set_cert_cb(ctx, LIB.keep(CALLBACK(choose)), None)
    serve_until_all(ctx)
    serve(ctx, TLS1_2)


def serve_until_all(ctx, wanted=2):
    """Until there is a response for every certificate, where this version can send them."""
    probe = LIB.SSL_new(ctx)
    can = LIB.SSL_ctrl(probe, GET_RESPONSES, 0, ctypes.byref(POINTER())) != 0
    LIB.SSL_free(probe)
    for _ in range(500):
        serve(ctx, TLS1_3)
        if not can or len(RESULTS[-1]) == wanted:
            break
        RESULTS.pop()
        time.sleep(0.02)


def only_the_handshake_reveals():
    """The context has a certificate, the connection another, which came in past all hooks."""
    ctx = server_context(loaded=False)
    load(ctx, FILES[4], FILES[5])

    def choose(ssl, _):
        check(LIB.behind("SSL_use_certificate_file")(ssl, CHAIN, PEM) == 1, "the certificate")
        check(LIB.SSL_use_PrivateKey_file(ssl, KEY, PEM) == 1, "the key")
        return 1

    LIB.SSL_CTX_set_cert_cb(ctx, LIB.keep(CALLBACK(choose)), None)
    serve_both(ctx)


def looked_up():
    """A server that no hook is called in, at a port, with a status callback if it has a file."""
    LIB.pass_hooks()
    ctx = server_context()
    listener = socket.create_server(("127.0.0.1", int(FILES[2])))
    if len(FILES) > 3:
        with open(FILES[3], "rb") as file:
            own = file.read()
        callback = LIB.keep(CALLBACK(lambda ssl, _: staple(ssl, own)))
        LIB.SSL_CTX_callback_ctrl(ctx, SET_STATUS_CALLBACK, callback)
    while True:
        connection, _ = listener.accept()
        with connection:
            server = LIB.SSL_new(ctx)
            LIB.SSL_set_fd(server, connection.fileno())
            LIB.SSL_set_accept_state(server)
            if LIB.SSL_do_handshake(server) == 1:
                LIB.SSL_shutdown(server)
            LIB.SSL_free(server)


def staple(ssl, response):
    """In a status callback: what it returns."""
    if not response:
        return NOACK
    copy = LIB.CRYPTO_malloc(len(response), b"", 0)
    ctypes.memmove(copy, response, len(response))
    LIB.SSL_ctrl(ssl, SET_RESPONSE, len(response), copy)
    return OK


# What happens to a connection.


def clear():
    """A connection that is used anew, also where the host has a callback of its own."""
    ctx = server_context()

    def nothing(_ssl, _argument):
        return OK

    for host in (False, True):
        if host:
            callback = LIB.keep(CALLBACK(nothing))
            LIB.SSL_CTX_callback_ctrl(ctx, SET_STATUS_CALLBACK, callback)
        server = LIB.SSL_new(ctx)
        for version in (TLS1_3, TLS1_2, TLS1_3):
            handshake(server, version=version)
            LIB.SSL_set_shutdown(server, 3)
            check(LIB.SSL_clear(server) == 1, "SSL_clear")
        LIB.SSL_free(server)


def resumption():
    ctx = server_context()
    for version in (TLS1_3, TLS1_2):
        session = None
        for resumed in (0, 1):
            server, client = LIB.SSL_new(ctx), new_client(version)
            LIB.SSL_set_session(client, session)
            handshake(server, client)
            check(LIB.SSL_session_reused(server) == resumed, f"resumed: not {resumed}")
            LIB.SSL_read(client, ctypes.create_string_buffer(1), 1)  # the ticket
            session = LIB.SSL_get1_session(client)
            LIB.SSL_set_shutdown(server, 3)
            LIB.SSL_set_shutdown(client, 3)
            LIB.SSL_free(server)
            LIB.SSL_free(client)


def reload_in_place():
    """A context whose leaf and chain become others."""
    ctx = server_context()
    serve_until_all(ctx)
    load(ctx, FILES[2], FILES[3])
    serve_until_all(ctx)


def renegotiation():
    ctx = server_context()
    server, client = LIB.SSL_new(ctx), new_client(TLS1_2)
    LIB.SSL_set_options(server, 1 << 8)  # ALLOW_CLIENT_RENEGOTIATION, since 3.0
    handshake(server, client)
    check(LIB.SSL_renegotiate(client) == 1, "SSL_renegotiate")
    rest = ctypes.create_string_buffer(1)
    for _ in range(10):
        LIB.SSL_do_handshake(client)
        LIB.SSL_read(server, rest, 1)
        LIB.SSL_read(client, rest, 1)
    check(LIB.SSL_renegotiate_pending(client) == 0, "still pending")
    RESULTS.append(staples(client))


ALPN = ctypes.CFUNCTYPE(ctypes.c_int, POINTER, ctypes.POINTER(POINTER),
                        ctypes.POINTER(ctypes.c_ubyte), POINTER, ctypes.c_uint,
                        POINTER)  # fmt: skip
PSK_SERVER = ctypes.CFUNCTYPE(ctypes.c_uint, POINTER, ctypes.c_char_p, POINTER, ctypes.c_uint)
PSK_CLIENT = ctypes.CFUNCTYPE(ctypes.c_uint, POINTER, ctypes.c_char_p, POINTER, ctypes.c_uint,
                              POINTER, ctypes.c_uint)  # fmt: skip


def psk():
    """Contexts without a certificate, and with one that is not used."""

    def server_key(_ssl, _identity, out, _room):
        ctypes.memmove(out, b"k" * 16, 16)
        return 16

    def client_key(_ssl, _hint, identity, _identity_room, out, _room):
        ctypes.memmove(identity, b"me\0", 3)
        ctypes.memmove(out, b"k" * 16, 16)
        return 16

    for loaded in (False, True):
        ctx = server_context(loaded=loaded)
        LIB.SSL_CTX_set_psk_server_callback(ctx, LIB.keep(PSK_SERVER(server_key)))
        client = new_client(TLS1_2)
        LIB.SSL_set_cipher_list(client, b"PSK-AES128-GCM-SHA256")
        LIB.SSL_set_psk_client_callback(client, LIB.keep(PSK_CLIENT(client_key)))
        handshake(LIB.SSL_new(ctx), client)


def udp_socket():
    made = socket.socket(type=socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", 0))
    made.setblocking(False)
    return made


def quic():
    """Both ends of a connection, non-blocking, with a listener."""
    protocol = b"\x01x"
    ctx = server_context(method="OSSL_QUIC_server_method")

    def choose(_ssl, out, size, _in, _in_size, _argument):
        out[0] = ctypes.addressof(name) + 1
        size[0] = 1
        return OK

    name = ctypes.create_string_buffer(protocol)
    LIB.SSL_CTX_set_alpn_select_cb(ctx, LIB.keep(ALPN(choose)), None)
    ends = udp_socket(), udp_socket()
    listener = LIB.SSL_new_listener(ctx, 0)
    LIB.SSL_set_fd(listener, ends[0].fileno())
    LIB.SSL_set_blocking_mode(listener, 0)
    check(LIB.SSL_listen(listener) == 1, "SSL_listen")
    for _ in range(2):
        client_ctx = LIB.SSL_CTX_new(LIB.OSSL_QUIC_client_method())
        client = LIB.SSL_new(client_ctx)
        LIB.SSL_set_fd(client, ends[1].fileno())
        LIB.SSL_set_blocking_mode(client, 0)
        LIB.SSL_set_alpn_protos(client, protocol, len(protocol))
        LIB.SSL_ctrl(client, SET_STATUS_TYPE, 1, None)
        peer = LIB.BIO_ADDR_new()
        port = socket.htons(ends[0].getsockname()[1])
        LIB.BIO_ADDR_rawmake(peer, socket.AF_INET, socket.inet_aton("127.0.0.1"), 4, port)
        LIB.SSL_set1_initial_peer_addr(client, peer)
        for _ in range(1000):
            done = LIB.SSL_do_handshake(client)
            LIB.SSL_handle_events(listener)
            LIB.SSL_accept_connection(listener, 1)
            if done == 1:
                break
            time.sleep(0.01)
        RESULTS.append(staples(client) if done == 1 else "failed")
        LIB.SSL_free(client)
        ends = ends[0], udp_socket()


# A host that staples.


def own_callback():
    """Of each kind, set before the certificate and after it, with its argument and getters."""
    with open(FILES[2], "rb") as file:
        own = file.read()
    mode = None
    argument = ctypes.create_string_buffer(b"argument")
    seen = set()

    def callback(ssl, given):
        seen.add(given)
        if mode == "staples":
            staple(ssl, own)
        return {"none": NOACK, "fatal": FATAL}.get(mode, OK)

    kept = LIB.keep(CALLBACK(callback))
    address = ctypes.cast(kept, POINTER).value
    for first in (True, False):
        ctx = server_context(loaded=not first)
        LIB.SSL_CTX_callback_ctrl(ctx, SET_STATUS_CALLBACK, kept)
        LIB.SSL_CTX_ctrl(ctx, SET_STATUS_ARGUMENT, 0, argument)
        if first:
            load(ctx)
        got = POINTER()
        LIB.SSL_CTX_ctrl(ctx, GET_STATUS_CALLBACK, 0, ctypes.byref(got))
        check(got.value == address, "another callback")
        LIB.SSL_CTX_ctrl(ctx, GET_STATUS_ARGUMENT, 0, ctypes.byref(got))
        check(got.value == ctypes.addressof(argument), "another argument")
        for mode in ("staples", "nothing", "none", "fatal"):
            for version in (TLS1_3, TLS1_2):
                serve(ctx, version)
    check(seen == {ctypes.addressof(argument)}, f"called with {seen}")
    # The host takes it back.
    LIB.SSL_CTX_callback_ctrl(ctx, SET_STATUS_CALLBACK, None)
    got = POINTER(1)
    LIB.SSL_CTX_ctrl(ctx, GET_STATUS_CALLBACK, 0, ctypes.byref(got))
    check(not got.value, "there is still a callback")
    serve_both(ctx)


def client_callback():
    """On a client the same callback judges: 0 refuses. It may come before the certificate."""
    ctx = server_context()
    verdict = 1

    def judge(_ssl, _argument):
        return verdict

    kept = LIB.keep(CALLBACK(judge))
    # Method that may be both: only TLS_method's contexts get the callback of the shim.
    both = LIB.SSL_CTX_new(LIB.TLS_method())
    load(both)
    LIB.SSL_CTX_callback_ctrl(both, SET_STATUS_CALLBACK, kept)
    for verdict in (1, 0):
        client = LIB.SSL_new(both)
        LIB.SSL_ctrl(client, SET_STATUS_TYPE, 1, None)
        handshake(LIB.SSL_new(ctx), client)


def client():
    """Shakes hands with a server elsewhere: with which port, how often."""
    stapled = 0
    for number in range(int(FILES[1])):
        ssl = new_client((TLS1_3, TLS1_2)[number % 2])
        with socket.create_connection(("127.0.0.1", int(FILES[0]))) as connection:
            LIB.SSL_set_fd(ssl, connection.fileno())
            LIB.SSL_set_connect_state(ssl)
            check(LIB.SSL_do_handshake(ssl) == 1, f"handshake {number}")
            stapled += bool(staples(ssl))
            LIB.SSL_shutdown(ssl)
        LIB.SSL_free(ssl)
    RESULTS.append(stapled)


def main():
    globals()[sys.argv[2]]()
    json.dump(RESULTS, sys.stdout)


main()
