# SPDX-License-Identifier: MIT
"""
Several machines on one network, each a network namespace, and one that has the HTTP cache. They end
with the processes that hold them open.
"""

import contextlib
import ctypes
import pathlib
import shutil
import subprocess

from servers import PLAIN_ENVIRONMENT, SServer, end_tree
from support import wait_until

CLONE_NEWNET = 0x40000000
PREFIX = "192.0.2."  # for documentation (RFC 5737): no machine's own
HUB = PREFIX + "1"

_libc = ctypes.CDLL(None, use_errno=True)


def _enter_network(file):
    if _libc.setns(file.fileno(), CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Machine:
    """A network namespace with a loopback of its own."""

    def __init__(self):
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo ready && exec sleep 3600"],
            stdout=subprocess.PIPE,
            env=PLAIN_ENVIRONMENT,
        )
        assert self._holder.stdout.readline() == b"ready\n", "a network namespace can be made"

    @property
    def pid(self):
        return self._holder.pid

    @property
    def wrapper(self):
        """What stands before a command that is to run on this machine."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net"]

    def run(self, *command):
        subprocess.run([*self.wrapper, *command], check=True, env=PLAIN_ENVIRONMENT)

    @contextlib.contextmanager
    def inside(self):
        """The sockets that this thread makes meanwhile are this machine's."""
        with open("/proc/thread-self/ns/net", "rb") as home:
            with open(f"/proc/{self.pid}/ns/net", "rb") as there:
                _enter_network(there)
            try:
                yield
            finally:
                _enter_network(home)

    def end(self):
        self._holder.kill()
        self._holder.wait()
        self._holder.stdout.close()


class Network:
    """count machines, and a hub that all of them reach under HUB."""

    def __init__(self, count):
        self._stack = contextlib.ExitStack()
        try:
            self.hub = self._machine()
            self.hub.run("ip", "link", "add", "lan", "type", "bridge")
            self.hub.run("ip", "address", "add", f"{HUB}/24", "dev", "lan")
            self.hub.run("ip", "link", "set", "lan", "up")
            self.machines = [self._join(number) for number in range(count)]
        except BaseException:
            self.end()
            raise

    def _machine(self):
        machine = Machine()
        self._stack.callback(machine.end)
        return machine

    def _join(self, number):
        machine = self._machine()
        port = f"port{number}"
        self.hub.run(
            *("ip", "link", "add", port, "type", "veth"),
            *("peer", "name", "eth0", "netns", str(machine.pid)),
        )
        self.hub.run("ip", "link", "set", port, "master", "lan", "up")
        machine.run("ip", "address", "add", f"{PREFIX}{number + 10}/24", "dev", "eth0")
        machine.run("ip", "link", "set", "eth0", "up")
        return machine

    def end(self):
        self._stack.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.end()


class MachineServer(SServer):
    """A server on one of the machines."""

    def __init__(self, directory, shim, leaf, machine, **options):
        super().__init__(directory, shim, leaf, wrapper=machine.wrapper, **options)
        self._machine = machine

    def is_listening(self):
        with self._machine.inside():
            return super().is_listening()


class Squid:
    """Debian's, with the lines of docs/fleets.md and what a test needs besides."""

    PORT = 3128
    RECIPE = pathlib.Path(__file__).resolve().parent.parent / "contrib" / "fleets" / "squid.conf"

    def __init__(self, directory, machine):
        self._directory = directory
        self._machine = machine
        self._process = None
        self._conf = directory / "squid.conf"
        self._log = directory / "squid.log"
        directory.chmod(0o777)  # it gives up root
        self._conf.write_text(
            self.RECIPE.read_text() + f"pid_filename {directory}/squid.pid\n"
            f"coredump_dir {directory}\ncache_log {directory}/cache.log\n"
            f"access_log stdio:{directory}/access.log\nshutdown_lifetime 1 second\n"
            "visible_hostname fleet\npinger_enable off\ndns_nameservers none\n"
        )

    @property
    def url(self):
        return f"http://{HUB}:{self.PORT}"

    def start(self):
        squid = shutil.which("squid", path=PLAIN_ENVIRONMENT["PATH"]) or "squid"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._machine.wrapper, squid, "-N", "-f", str(self._conf)],
                env=PLAIN_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._accepts, 30, what=lambda: f"squid listens\n{self.log()}")

    def _accepts(self):
        # Not by connecting, which would count as a client.
        assert self._process.poll() is None, self.log()
        listening = pathlib.Path(f"/proc/{self._process.pid}/net/tcp6").read_text()
        listening += pathlib.Path(f"/proc/{self._process.pid}/net/tcp").read_text()
        return f":{self.PORT:04X} " in listening

    def log(self):
        files = sorted(self._directory.glob("*.log"))
        return "\n".join(file.read_text(errors="replace") for file in files)

    def answers(self):
        """How each request was answered, in Squid's words: TCP_MISS, TCP_MEM_HIT…"""
        lines = (self._directory / "access.log").read_text().splitlines()
        return [line.split()[3].partition("/")[0] for line in lines]

    def stop(self):
        if self._process:
            end_tree(self._process.pid)
            self._process.wait()
            self._process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exception):
        self.stop()
