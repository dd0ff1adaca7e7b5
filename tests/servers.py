# SPDX-License-Identifier: MIT
"""Real servers, with the shim and without, that end when the test does."""

import contextlib
import ctypes
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

from support import free_port, wait_until

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = ROOT / (os.environ.get("OCSPRELOAD_BUILD") or "build")
LIBRARY = BUILD / "libocspreload.so"
SANITIZE = os.environ.get("OCSPRELOAD_SANITIZE", "")
# In the child of a process with threads, ThreadSanitizer keeps signals back for ever.
HAS_SIGNALS_AFTER_FORK = "thread" not in SANITIZE

# Nothing of the tester's own environment reaches a host: a proxy or a shim there would lie.
PLAIN_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/",
    "PYTHONDONTWRITEBYTECODE": "1",
}


class Shim:
    """How a command is run under the shim, and under the sanitizer that it was built with."""

    def __init__(self, sanitizer_logs, **variables):
        self.sanitizer_logs = sanitizer_logs
        self.variables = {
            "OCSPRELOAD_LOG_LEVEL": "debug",
            "OCSPRELOAD_STORE": "off",
            "OCSPRELOAD_AGENT": "off",
            # How fast this machine is, and what else it does, is not what is tested.
            "OCSPRELOAD_STARTUP_WAIT": "20s",
            **variables,
        }

    def environment(self, **more):
        environment = {**PLAIN_ENVIRONMENT, **self._sanitizer_options(), **self.variables, **more}
        # An empty value and none are different things to say; None takes a default away.
        environment = {name: value for name, value in environment.items() if value is not None}
        return {"LD_PRELOAD": self.preload, **environment}

    @property
    def preload(self):
        return " ".join([*_sanitizer_runtimes(), str(LIBRARY)])

    def command(self, command):
        if "thread" not in SANITIZE:
            return list(command)
        # ThreadSanitizer's shadow has no room for all that address randomisation does.
        preload = ["env", f"LD_PRELOAD={self.preload}"]
        return ["env", "-u", "LD_PRELOAD", "setarch", "-R", *preload, *command]

    def keep_report(self, log):
        """UBSan beside ASan ignores log_path: its reports go to standard error."""
        if SANITIZE and "runtime error:" in log:
            (self.sanitizer_logs / f"stderr.{os.getpid()}.{time.monotonic_ns()}").write_text(log)

    def _sanitizer_options(self):
        if not SANITIZE:
            return {}
        log = f"log_path={self.sanitizer_logs}/report"
        return {
            "ASAN_OPTIONS": f"detect_leaks=0:{log}",
            "UBSAN_OPTIONS": f"print_stacktrace=1:{log}",
            # The hosts and OpenSSL are not instrumented: what they do among themselves is not seen
            # and must not be judged by the half that interceptors see.
            "TSAN_OPTIONS": "die_after_fork=0:report_signal_unsafe=0:atexit_sleep_ms=0:"
            f"ignore_noninstrumented_modules=1:second_deadlock_stack=1:"
            f"atexit_sleep_ms=50:{log}",
        }


def _sanitizer_runtimes():
    names = {"address": "libasan.so", "thread": "libtsan.so"}
    compiler = os.environ.get("CC", "gcc")
    for word in SANITIZE.split(","):
        if word in names:
            yield subprocess.check_output(
                [compiler, f"-print-file-name={names[word]}"], text=True
            ).strip()


def children(pid):
    found = []
    # The process may end under our eyes.
    with contextlib.suppress(OSError):
        for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def tree(pid):
    """pid and all its descendants."""
    found = [pid]
    for child in children(pid):
        found += tree(child)
    return found


def is_alive(pid):
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def threads(pid):
    """The names of the threads of pid."""
    names = []
    for comm in pathlib.Path(f"/proc/{pid}/task").glob("*/comm"):
        with contextlib.suppress(OSError):
            names.append(comm.read_text().strip())
    return names


def connections_in_hand(pid, port):
    """How many that came in on port the process has, established or not any more."""
    listening, mine = "0A", set()
    for link in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        mine.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
    count = 0
    for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, state, inode = (line.split()[column] for column in (1, 3, 9))
        count += local.endswith(f":{port:04X}") and state != listening and inode in mine
    return count


def send_signal(pid, how):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, how)


def end_tree(pid, how=signal.SIGTERM, patience=10):
    """Ends pid and its descendants, none of which are looked for by name."""
    pids = tree(pid)
    send_signal(pid, how)
    if how != signal.SIGKILL:
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not any(map(is_alive, pids)), patience)
    for left in filter(is_alive, pids):
        send_signal(left, signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, pids)), what=f"{pids} end")


@contextlib.contextmanager
def adopting():
    """
    What loses its parent meanwhile becomes this process's child, and is ended by its id: no tree
    leads to a daemon whose master was killed, or has been replaced.
    """
    set_child_subreaper = 36
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    before = set(children(os.getpid()))
    assert prctl(set_child_subreaper, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        while left := set(children(os.getpid())) - before:
            for pid in left:
                end_tree(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        prctl(set_child_subreaper, 0, 0, 0, 0)


class Server:
    """
    A server process on a port of its own. environment is added to the shim's; wrapper stands before
    the command (valgrind, unshare).
    """

    logs_to_stdout = False
    patience = 30  # seconds until it is killed: how it ends is compared

    def __init__(self, directory, shim, environment=None, wrapper=()):
        self.directory = directory
        self.port = free_port()
        self.shim = shim
        self.process = None
        self._environment = environment or {}
        self._wrapper = list(wrapper)
        self._stderr = directory / "stderr"

    def command(self):
        raise NotImplementedError

    def environment(self):
        if self.shim:
            return self.shim.environment(**self._environment)
        return {**PLAIN_ENVIRONMENT, **self._environment}

    def start(self):
        command = self._wrapper + self.command()
        if self.shim:
            command = self.shim.command(command)
        with self._stderr.open("ab") as stderr:
            self.process = subprocess.Popen(
                command,
                env=self.environment(),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=stderr if self.logs_to_stdout else subprocess.DEVNULL,
                stderr=stderr,
            )
        self.wait_ready()

    def wait_ready(self):
        wait_until(self.is_listening, 120, what=lambda: f"{self.command()[0]} listens\n{self.log()}")

    def is_listening(self):
        """By plain TCP: the first handshake belongs to the test."""
        assert self.process.poll() in (None, 0), self.log()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def pid(self):
        return self.process.pid

    def stop(self, how=signal.SIGTERM):
        """Returns the exit status of the process that was started."""
        if not self.process:
            return None
        process, self.process = self.process, None
        pids = tree(process.pid)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(how)
        try:
            process.wait(self.patience)
        except subprocess.TimeoutExpired:
            process.kill()
        for pid in pids[1:]:
            if is_alive(pid):
                end_tree(pid)
        if self.shim:
            self.shim.keep_report(self.log())
        return process.wait()

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception):
        self.stop()

    def log(self):
        """All that the server, and the shim in it, said so far."""
        return self._stderr.read_text(errors="replace") if self._stderr.exists() else ""

    def shim_lines(self, *levels):
        """What the shim said, or only what it said at these levels."""
        # In a file of its own each begins with the time.
        lines = [line for line in self.log().splitlines() if re.match(r"(\S+Z )?ocspreload\[", line)]
        if not levels:
            return lines
        return [line for line in lines if line.partition("] ")[2].partition(":")[0] in levels]

    def threads(self):
        """The names of all threads of all processes of the server."""
        return [name for pid in tree(self.pid) for name in threads(pid)]


class Site:
    """One server block of nginx: one certificate, or several with keys of different kinds."""

    def __init__(self, *leaves, name="localhost", extra=""):
        self.leaves = leaves
        self.name = name
        self.extra = extra

    def block(self, port, listen):
        lines = [f"listen 127.0.0.1:{port} ssl {listen};", f"server_name {self.name};"]
        for leaf in self.leaves:
            lines.append(f"ssl_certificate {leaf.chain_file};")
            lines.append(f"ssl_certificate_key {leaf.key_file};")
        # The pid tells a client which worker it has met.
        lines += [self.extra, 'location / { return 200 "$pid"; }']
        return "server {\n" + "\n".join(lines) + "\n}\n"


class Nginx(Server):
    """
    Debian's nginx the way Debian starts it; mode is "daemon", "foreground" or "single". Where it is
    keeping its environment, an upgrade in place does not lose the shim.
    """

    FLAGS = {
        "daemon": "daemon on; master_process on;",
        "foreground": "daemon off; master_process on;",
        "single": "daemon off; master_process off;",
    }

    def __init__(
        self,
        directory,
        shim,
        *sites,
        mode="daemon",
        workers=2,
        user="www-data",
        listen="",
        extra="",
        main="",
        keeping=False,
        **options,
    ):
        super().__init__(directory, shim, **options)
        self.mode = mode
        if keeping:
            main += "".join(f"env {name};" for name in self.environment())
        self._pid_file = directory / "nginx.pid"
        self._error_log = directory / "error.log"
        self._conf = directory / "nginx.conf"
        sites = [site if isinstance(site, Site) else Site(site) for site in sites]
        blocks = [sites[0].block(self.port, listen)]
        blocks += [site.block(self.port, "") for site in sites[1:]]
        temporary = "\n".join(
            f"{name}_temp_path {directory}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        who = f"user {user};" if os.geteuid() == 0 else ""
        self._conf.write_text(
            f"{who}\n{main}\nworker_processes {workers};\npid {self._pid_file};\n"
            f"error_log {self._error_log} info;\n"
            "events { worker_connections 64; }\n"
            f"http {{\naccess_log off;\nssl_protocols TLSv1.2 TLSv1.3;\n"
            f"{temporary}\n{extra}\n{''.join(blocks)}}}\n"
        )

    def command(self):
        # Whole, for an upgrade in place.
        nginx = shutil.which("nginx", path=PLAIN_ENVIRONMENT["PATH"]) or "nginx"
        return [nginx, "-p", str(self.directory), "-c", str(self._conf)] + [
            "-e",
            str(self._error_log),
            "-g",
            self.FLAGS[self.mode],
        ]

    def start(self):
        # One that was killed has left it.
        self._pid_file.unlink(missing_ok=True)
        super().start()
        if self.mode == "daemon":
            assert self.process.wait(60) == 0, self.log()
            wait_until(self._pid_file.exists, what="the daemon has a pid file")

    @property
    def pid(self):
        """The master's."""
        if self.mode == "daemon":
            # It is made, and filled a moment later.
            return int(wait_until(self._pid_file.read_text, what="the pid file says something"))
        return super().pid

    def workers(self):
        return children(self.pid)

    def begin_upgrade(self):
        """Beside the master there is another, whose pid is ours; needs a daemon, and adopting."""
        # A signal that comes before nginx has begun to wait for one is lost.
        wait_until(self.workers, what=self.log)
        old, aside = self.pid, self.directory / "nginx.pid.oldbin"
        send_signal(old, signal.SIGUSR2)
        wait_until(lambda: aside.exists() and self._pid_file.exists(), what=self.log)
        wait_until(lambda: self.pid != old and self.workers(), what=self.log)

    def upgrade(self):
        """Until the old master is gone, and its workers with it."""
        old = self.pid
        before = tree(old)
        self.begin_upgrade()
        send_signal(old, signal.SIGQUIT)
        # Children go to a thread that is still there before they go to another process.
        wait_until(lambda: not any(map(is_alive, before)) and not children(old), 60, what=self.log)
        assert is_alive(self.pid), self.log()

    def take_upgrade_back(self):
        """As far as it can get: the old master has no workers any more, and starts new ones."""
        old = self.pid
        self.begin_upgrade()
        new = self.pid
        send_signal(old, signal.SIGWINCH)
        wait_until(lambda: children(old) == [new], 60, what=self.log)
        send_signal(old, signal.SIGHUP)
        wait_until(lambda: len(children(old)) > 1, what=self.log)
        send_signal(new, signal.SIGQUIT)
        wait_until(lambda: not is_alive(new) and self.has_pid(old), 60, what=self.log)

    def has_pid(self, pid):
        return self._pid_file.exists() and self.pid == pid

    def stop(self, how=signal.SIGTERM):
        if self.mode == "daemon" and self._pid_file.exists():
            with contextlib.suppress(ValueError):
                end_tree(self.pid, how if HAS_SIGNALS_AFTER_FORK else signal.SIGKILL)
        return super().stop(how)

    def log(self):
        text = super().log()
        if self._error_log.exists():
            text += self._error_log.read_text(errors="replace")
        return text


class SServer(Server):
    """`openssl s_server`: one connection at a time, as plain as a server can be."""

    def __init__(self, directory, shim, leaf, *options, **more):
        super().__init__(directory, shim, **more)
        self._leaf = leaf
        self._options = [str(option) for option in options]

    def command(self):
        return ["openssl", "s_server", "-accept", f"127.0.0.1:{self.port}", "-www", "-quiet"] + [
            *("-cert", str(self._leaf.certificate_file), "-key", str(self._leaf.key_file)),
            *("-cert_chain", str(self._leaf.chain_file)),
            *self._options,
        ]


class PythonServer(Server):
    """Python's ssl module, whose OpenSSL is out of sight (RTLD_LOCAL)."""

    def __init__(self, directory, shim, *arguments, **more):
        super().__init__(directory, shim, **more)
        self._arguments = [str(argument) for argument in arguments]

    def command(self):
        script = HERE / "hosts" / "python_server.py"
        return [sys.executable, str(script), str(self.port), *self._arguments]


class LateChainServer(Server):
    """A server that loads its chain well after its certificate."""

    def __init__(self, directory, shim, leaf, **more):
        super().__init__(directory, shim, **more)
        self._leaf = leaf

    def command(self):
        leaf = self._leaf
        files = [leaf.certificate_file, leaf.key_file, leaf.authority.file]
        script = HERE / "hosts" / "late_chain_server.py"
        return [sys.executable, str(script), str(self.port), *map(str, files)]
