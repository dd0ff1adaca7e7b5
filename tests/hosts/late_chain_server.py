# SPDX-License-Identifier: MIT
"""
A server that loads its certificate first and, when everybody has had a look at it, the chain.

usage: late_chain_server.py PORT CERTIFICATE KEY CHAIN
"""

import socket
import sys
import time

from OpenSSL import SSL, crypto


def main():
    port, certificate, key, chain = sys.argv[1:]
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate_file(certificate)
    context.use_privatekey_file(key)
    time.sleep(0.3)
    with open(chain, "rb") as file:
        context.add_extra_chain_cert(crypto.load_certificate(crypto.FILETYPE_PEM, file.read()))
    listener = socket.create_server(("127.0.0.1", int(port)))
    while True:
        raw, _ = listener.accept()
        connection = SSL.Connection(context, raw)
        connection.set_accept_state()
        try:
            connection.do_handshake()
            connection.recv(4096)
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nok")
            connection.shutdown()
        except SSL.Error:
            pass
        raw.close()


main()
