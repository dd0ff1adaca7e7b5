# SPDX-License-Identifier: MIT
"""
usage: inetd.py PORT COMMAND…

Runs a command for each connection, which is its standard input and output, like inetd.
"""

import signal
import socket
import subprocess
import sys

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
    while True:
        connection, _ = listener.accept()
        with connection:
            subprocess.Popen(sys.argv[2:], stdin=connection, stdout=connection)
