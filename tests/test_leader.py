# SPDX-License-Identifier: MIT
"""The process that fetches for all others is killed, again and again, while clients shake hands."""

import mmap
import os
import pathlib
import random
import signal
import struct
import subprocess
import time

import pytest
import responder as r
import servers
from client import Load
from support import scaled, seconds_between, wait_until

KILLS = scaled(60, 1000)
PROCESSES = 5
# Of a response: what is left of it, and what is over when it comes. It is asked for again when half
# of it all is over, in two seconds, or a little more.
REST, AGE = 12, 8
LATEST = 0.6 * (AGE + REST) - AGE
SERVING, RETIRE, IDLE = range(3)
FUTEX = "202" if os.uname().machine == "x86_64" else "98"
FUTEX_CLOCK_REALTIME = 0x100


class Herd(servers.Server):
    """tests/hosts/herd: processes that are all alike, and replace each other."""

    def __init__(self, directory, shim, leaf, **options):
        super().__init__(directory, shim, **options)
        self._leaf = leaf
        file = directory / "state"
        file.write_bytes(bytes(8 * PROCESSES))
        with file.open("r+b") as opened:
            self._state = mmap.mmap(opened.fileno(), 0)

    def command(self):
        files = [self._leaf.chain_file, self._leaf.key_file]
        words = [*files, self.port, PROCESSES, self.directory / "state"]
        return [str(word) for word in [servers.BUILD / "hosts" / "herd", *words]]

    def start(self):
        # It ends with its standard input.
        self._input, self._other_end = os.pipe()
        with self._stderr.open("ab") as stderr:
            self.process = subprocess.Popen(
                self.shim.command(self.command()),
                env=self.environment(),
                stdin=self._input,
                stderr=stderr,
            )
        os.close(self._input)
        wait_until(self.is_whole, 60, what=self.log)

    def place(self, number):
        """The pid of the process in a place, and what it does."""
        return struct.unpack_from("=ii", self._state, 8 * number)

    def pids(self):
        return [self.place(number)[0] for number in range(PROCESSES)]

    def is_whole(self):
        pids = self.pids()
        return all(pid > 0 and servers.is_alive(pid) for pid in pids) and len(set(pids)) == len(pids)

    def leader(self):
        """The place of the process that fetches, or None at a moment when it cannot be told."""
        leaders = [number for number in range(PROCESSES) if self._leads(self.place(number)[0])]
        return leaders[0] if len(leaders) == 1 else None

    def _leads(self, pid):
        """A thread that waits by the wall clock stands by; the leader's never does."""
        for task in pathlib.Path(f"/proc/{pid}/task").glob("*"):
            try:
                if (task / "comm").read_text() != "ocspreload\n":
                    continue
                call = (task / "syscall").read_text().split()
            except OSError:
                return False
            return not (call[0] == FUTEX and int(call[2], 16) & FUTEX_CLOCK_REALTIME)
        return False

    def kill(self, number):
        """Once it has nobody's connection in its hands: what else is cut off is the shim's."""
        pid, _ = self.place(number)
        struct.pack_into("=i", self._state, 8 * number + 4, RETIRE)
        wait_until(lambda: self.place(number) == (pid, IDLE), interval=0.001)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: self.place(number)[0] not in (pid, -1), interval=0.002, what=self.log)

    def places_taken(self):
        """Who fetches, and two who stand by."""
        return self.is_whole() and self.threads().count("ocspreload") == 3

    def possessions(self):
        """Threads, descriptors, and KiB of memory of its own, of all processes together."""
        counts = [0, 0, 0]
        for pid in self.pids():
            process = pathlib.Path(f"/proc/{pid}")
            counts[0] += len(list((process / "task").iterdir()))
            counts[1] += len(list((process / "fd").iterdir()))
            status = (process / "status").read_text()
            counts[2] += int(status.partition("RssAnon:")[2].split()[0])
        return counts

    def stop(self, how=None):
        os.close(self._other_end)
        self.process.wait(60)
        self.process = None


@pytest.fixture
def herd(_starter):
    return _starter(Herd)


def settled(server, wanted=None):
    """What it has when all places are taken again, and nothing is in flight."""

    def is_settled():
        return server.places_taken() and wanted in (None, server.possessions()[:2])

    wait_until(
        is_settled,
        what=lambda: f"{server.possessions()}, wanted {wanted}\n{server.log()[-2000:]}",
    )
    return server.possessions()


def test_the_death_of_the_leader_costs_nobody_anything(herd, issue, responder, figure):
    leaf = issue(behaviour=r.delayed(0.1, r.good(validity=REST, this_update=-AGE)))
    server = herd(leaf)
    random.seed(1)
    killed = 0
    with Load(server.port, rate=100) as load:
        # At rest: most looks are not at the moment of a fetch.
        before = min(settled(server) for _ in range(50))
        began = time.monotonic()
        while killed < KILLS:
            leader = server.leader()
            if leader is None:
                time.sleep(0.001)
                continue
            server.kill(leader)
            killed += 1
            # At any moment of a fetch, of a takeover, or of rest.
            time.sleep(random.choice([0, 0.01, 0.1, 0.5]) * random.random())
        seconds = time.monotonic() - began
        last = responder.count(leaf)
        wait_until(lambda: responder.count(leaf) > last)
        # ThreadSanitizer has threads of its own, in some processes.
        after = settled(server, None if servers.SANITIZE else before[:2])
        load.look()
    at = [asked.at for asked in responder.asked_for(leaf)]
    gaps = [seconds_between(earlier, later) for earlier, later in zip(at, at[1:])]
    figure("kills", f"{killed} in {seconds:.0f} s")
    figure("handshakes", load)
    figure("threads, descriptors, KiB before", before)
    figure("threads, descriptors, KiB after", after)
    figure("requests", f"{len(at)}, at most {max(gaps):.1f} s apart")
    for name in ("unstapled", "refused", "failed", "hung"):
        assert load.counts[name] == 0, (str(load), server.log()[-4000:])
    assert load.counts["stapled"] >= KILLS
    # A generation that led leaves libcrypto's own store for the thread to the next: under 1 KiB.
    assert servers.SANITIZE or after[2] - before[2] < 1024 + KILLS
    # Half of its life and a tenth are over, and the second in which a dead leader is replaced.
    assert max(gaps) < LATEST + 1 + 1
