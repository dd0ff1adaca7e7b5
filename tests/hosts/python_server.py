# SPDX-License-Identifier: MIT
"""
A TLS server as small as Python's ssl module allows.

usage: python_server.py PORT PEM [NAME=PEM…] [--client-ca FILE] [--ca PATH]

The first PEM file is for everybody, the others for those who ask for NAME. What --ca names, a file
or a hashed directory, is loaded after the certificate, and nothing is asked of clients for it.
SIGHUP has it load the first file again.
"""

import argparse
import os
import signal
import socket
import ssl
import threading


def make_context(pem, client_ca, ca):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    if ca:
        is_directory = os.path.isdir(ca)
        context.load_verify_locations(
            cafile=None if is_directory else ca, capath=ca if is_directory else None
        )
    if client_ca:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def serve(context, connection):
    try:
        with context.wrap_socket(connection, server_side=True) as tls:
            tls.recv(4096)
            tls.sendall(b"HTTP/1.0 200 OK\r\n\r\nok")
            tls.unwrap()
    except OSError:
        connection.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("pem")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--client-ca")
    parser.add_argument("--ca")
    arguments = parser.parse_args()

    context = make_context(arguments.pem, arguments.client_ca, arguments.ca)
    others = {}
    for name_and_pem in arguments.names:
        name, _, pem = name_and_pem.partition("=")
        others[name] = make_context(pem, arguments.client_ca, arguments.ca)

    def choose(tls, name, _):
        tls.context = others.get(name, context)

    context.sni_callback = choose
    signal.signal(signal.SIGHUP, lambda *_: context.load_cert_chain(arguments.pem))
    listener = socket.create_server(("127.0.0.1", arguments.port), backlog=64)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(context, connection), daemon=True).start()


main()
