# SPDX-License-Identifier: MIT
"""
A TLS server of BoringSSL: its functions are found as the loader would find them for a program that
is linked with it, so that those of a preloaded library come first.

usage: boringssl_server.py PORT CERTIFICATE KEY
"""

import ctypes
import socket
import sys

LIBRARIES = "/usr/lib/x86_64-linux-gnu/android/"
PEM = 1


def find(name, *arguments, result=ctypes.c_int):
    function = getattr(ctypes.CDLL(None), name)
    function.argtypes = arguments
    function.restype = result
    return function


def main():
    for name in ("libcrypto.so.0", "libssl.so.0"):
        ctypes.CDLL(LIBRARIES + name, ctypes.RTLD_GLOBAL)
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    method = find("TLS_method", result=pointer)()
    context = find("SSL_CTX_new", pointer, result=pointer)(method)
    port, certificate, key = sys.argv[1:]
    load = find("SSL_CTX_use_certificate_chain_file", pointer, text)
    assert load(context, certificate.encode()) == 1
    load_key = find("SSL_CTX_use_PrivateKey_file", pointer, text, number)
    assert load_key(context, key.encode(), PEM) == 1
    new, free = find("SSL_new", pointer, result=pointer), find("SSL_free", pointer, result=None)
    with socket.create_server(("127.0.0.1", int(port))) as listener:
        while True:
            connection, _ = listener.accept()
            tls = new(context)
            assert find("SSL_set_fd", pointer, number)(tls, connection.fileno()) == 1
            if find("SSL_accept", pointer)(tls) == 1:
                find("SSL_read", pointer, text, number)(tls, ctypes.create_string_buffer(999), 999)
                find("SSL_write", pointer, text, number)(tls, b"hello", 5)
                find("SSL_shutdown", pointer)(tls)
            free(tls)
            connection.close()


main()
