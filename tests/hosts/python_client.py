# SPDX-License-Identifier: MIT
"""
A TLS client with a certificate of its own; prints how many threads the process has in the end.

usage: python_client.py PORT PEM
"""

import os
import socket
import ssl
import sys


def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(sys.argv[2])
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
        with context.wrap_socket(connection) as tls:
            tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert tls.recv(4096)
    print(len(os.listdir("/proc/self/task")))


main()
