# SPDX-License-Identifier: MIT
"""The actors of every test: an authority, a responder, servers, and the shim."""

import contextlib
import itertools
import os
import pathlib
import shutil
import signal
import tempfile

import ca
import hosts_table
import pytest
import responder as responder_module
import servers

# A shell has what it starts in the background ignore it, and so would every server of the tests.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def figure(record_property):
    """Takes what a test has counted, a name and a value, to be printed at the end of all tests."""

    def take(name, value):
        record_property("figure", f"{name}: {value}")
        print(f"{name}: {value}", flush=True)  # long runs are watched (pytest -s)

    return take


def pytest_terminal_summary(terminalreporter):
    _print_figures(terminalreporter)
    failed = terminalreporter.stats.get("failed") or terminalreporter.stats.get("error")
    is_worker = hasattr(terminalreporter.config, "workerinput")
    if hosts_table.is_wanted() and not failed and not is_worker:
        hosts_table.write(terminalreporter.stats.get("passed", []))


def _print_figures(terminalreporter):
    reports = [
        report
        for kind in ("passed", "failed")
        for report in terminalreporter.getreports(kind)
        if report.when == "call"
    ]
    lines = [
        f"{report.nodeid.partition('::')[2]}: {text}"
        for report in reports
        for name, text in report.user_properties
        if name == "figure"
    ]
    if lines:
        terminalreporter.section("figures")
        terminalreporter.write_line("\n".join(lines))


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """An intermediate with an RSA key under an EC root."""
    return ca.Authority.create(tmp_path_factory.mktemp("ca")).subordinate()


@pytest.fixture(scope="session")
def ec_authority(tmp_path_factory):
    return ca.Authority.create(tmp_path_factory.mktemp("ec-ca"), "EC Root").subordinate(
        "EC Intermediate", "ec"
    )


@pytest.fixture
def responder():
    """The responder that misbehaves on command."""
    with responder_module.Responder() as running:
        yield running


@pytest.fixture
def issue(authority, responder):
    """Issues a certificate whose responder is ours, which answers good if not told otherwise."""

    def issue_one(*names, behaviour=None, by=None, path="", **options):
        options.setdefault("responder", responder.url + path)
        leaf = (by or authority).issue(*names, **options)
        responder.answer(leaf, behaviour or responder_module.good())
        return leaf

    return issue_one


@pytest.fixture
def openssl_responder(tmp_path, authority):
    directory = tmp_path / "responder"
    directory.mkdir()
    real = responder_module.OpensslResponder(directory, authority)
    yield real
    real.stop()


@pytest.fixture(autouse=True)
def sanitizer_logs():
    """Fails the test if a sanitizer had anything to say about any process in it."""
    if not servers.SANITIZE:
        yield None
        return
    directory = pathlib.Path(tempfile.mkdtemp(prefix="sanitizer-"))
    directory.chmod(0o1777)  # workers have given up root
    try:
        yield directory
        reports = [path.read_text(errors="replace") for path in sorted(directory.iterdir())]
        assert not any(reports), "\n".join(reports)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def shim(sanitizer_logs):
    if not servers.LIBRARY.exists():
        pytest.fail(f"{servers.LIBRARY} is not there: run make first")
    return servers.Shim(sanitizer_logs)


@pytest.fixture
def _starter(tmp_path, request):
    """Makes functions that start servers and have them stopped at the end of the test."""
    numbers = itertools.count(1)
    with contextlib.ExitStack() as stack:

        def starter(kind):
            def start(*arguments, shim=True, **options):
                directory = tmp_path / f"{kind.__name__}-{next(numbers)}"
                directory.mkdir()
                shim = request.getfixturevalue("shim") if shim is True else shim or None
                return stack.enter_context(kind(directory, shim, *arguments, **options))

            return start

        yield starter


@pytest.fixture
def adopting():
    """For tests of which something could be left that no pid file and no parent leads to."""
    with servers.adopting():
        yield


@pytest.fixture
def nginx(_starter):
    return _starter(servers.Nginx)


@pytest.fixture
def s_server(_starter):
    return _starter(servers.SServer)


@pytest.fixture
def python_server(_starter):
    return _starter(servers.PythonServer)


@pytest.fixture
def late_chain_server(_starter):
    return _starter(servers.LateChainServer)


@pytest.fixture
def daemon(shim):
    """Starts a daemon in a directory that other users than root can reach."""
    numbers = itertools.count(1)
    root = pathlib.Path(tempfile.mkdtemp(prefix="daemon-"))
    root.chmod(0o755)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)

        def start(kind, leaf, with_shim=True, **options):
            if not shutil.which(kind.program, path=servers.PLAIN_ENVIRONMENT["PATH"]):
                pytest.fail(f"{kind.program} is missing: scripts/deps test installs it")
            directory = root / str(next(numbers))
            directory.mkdir()
            shim_or_none = shim if with_shim else None
            return stack.enter_context(kind(directory, shim_or_none, leaf, **options))

        start.directory = root
        yield start


@pytest.fixture
def store(tmp_path):
    directory = tmp_path / "store"
    directory.mkdir(mode=0o755)
    return directory


@pytest.fixture
def stored(store):
    """The environment of a host with that store."""
    return {"OCSPRELOAD_STORE": str(store)}


@pytest.fixture
def public():
    """A directory that other users can reach, which pytest's are not."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield pathlib.Path(directory)


@pytest.fixture
def seen(record_property):
    """Says what was seen of a server, for the table in docs/servers.md."""

    def say(kind, what=hosts_table.FIRST, words="stapled"):
        assert kind.__name__ in hosts_table.HOSTS, "every server has its line in the table"
        record_property(f"seen {kind.__name__} {what}", words)

    return say


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
plain_build_only = pytest.mark.skipif(
    bool(servers.SANITIZE), reason="sanitizers bring libraries and memory of their own"
)
