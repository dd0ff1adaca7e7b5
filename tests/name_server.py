# SPDX-License-Identifier: MIT
"""A name server for the tests' own names, on an address of its own."""

import contextlib
import random
import socket
import struct
import threading

_ADDRESS, _ONE_CLASS = 1, 1
_ANSWER, _NO_SUCH_NAME = 0x8180, 0x8183  # recursion desired and available


class NameServer:
    """Knows IPv4 addresses by name, and counts what it is asked."""

    def __init__(self, names):
        self.names = names
        self.asked = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.address = self._bind()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _bind(self):
        """The port of a name server is always 53, so that it is the address that is free."""
        while True:
            address = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.53"
            with contextlib.suppress(OSError):
                self._socket.bind((address, 53))
                return address

    def count(self, name):
        return sum(asked == name for asked in self.asked)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        # A datagram of nothing is not a question.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"", (self.address, 53))
        self._thread.join()
        self._socket.close()

    def _serve(self):
        while True:
            question, asker = self._socket.recvfrom(512)
            if not question:
                return
            self._socket.sendto(self._answer(question), asker)

    def _answer(self, question):
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode())
            at += 1 + question[at]
        name = ".".join(labels).lower()
        kind, _ = struct.unpack_from(">HH", question, at + 1)
        if kind == _ADDRESS:
            self.asked.append(name)
        known = self.names.get(name)
        found = known if kind == _ADDRESS else None
        status = _ANSWER if known else _NO_SUCH_NAME
        head = question[:2] + struct.pack(">HHHHH", status, 1, bool(found), 0, 0)
        answer = b""
        if found:
            # The name is that of the question; it may be remembered for a minute.
            answer = struct.pack(">HHHIH", 0xC00C, _ADDRESS, _ONE_CLASS, 60, 4)
            answer += socket.inet_aton(found)
        return head + question[12 : at + 5] + answer
