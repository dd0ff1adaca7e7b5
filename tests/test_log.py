# SPDX-License-Identifier: MIT
"""Where lines go, and what becomes of them where that cannot be reached."""

import re

import pytest
from conftest import needs_root
from daemons_long import Syslog
from responder import soon_due
from test_hazards import REST, SHORT, run_host

pytestmark = needs_root
STAPLING = "stapling the response of http"


@pytest.fixture
def leaf(issue):
    return issue("localhost", behaviour=soon_due(SHORT))


@pytest.fixture
def syslog(tmp_path):
    """A machine's: wrapper shows it to a command, text is what was logged."""
    running = Syslog(tmp_path)
    running.text = lambda: (running.close(), (tmp_path / "syslog").read_text())[1]
    return running


def test_lines_for_syslog_have_its_form(shim, leaf, syslog):
    ran = run_host(
        shim, leaf, "handshake", 1, wrapper=syslog.wrapper, OCSPRELOAD_LOG="syslog"
    )
    assert ran.stdout == "1 stapled\n" and ran.stderr == ""
    (line,) = (line for line in syslog.text().splitlines() if STAPLING in line)
    # Facility "daemon", severity "informational".
    assert re.match(r"<30>ocspreload\[\d+\]: localhost ", line)


@pytest.mark.parametrize("target", ["syslog", "file"])
def test_lines_that_cannot_leave_a_jail_go_to_standard_error(
    shim, leaf, syslog, target, tmp_path
):
    jail, file = tmp_path / "jail", tmp_path / "log"
    jail.mkdir()

    ran = run_host(
        shim,
        leaf,
        *("jail", "parent", jail, REST),
        wrapper=syslog.wrapper,
        OCSPRELOAD_LOG=str(file) if target == "file" else target,
    )

    before = syslog.text() if target == "syslog" else file.read_text()
    assert ran.returncode == 0, ran.stderr
    assert STAPLING in before
    assert re.search(rf"^ocspreload\[\d+\] info: localhost .*{STAPLING}", ran.stderr, re.MULTILINE)
    assert "<30>" not in ran.stderr


def test_lines_that_nobody_takes_are_no_obstacle(shim, leaf, tmp_path):
    ran = run_host(
        shim,
        leaf,
        *("handshake", 3),
        wrapper=["sh", "-c", 'exec 2>/dev/full; exec "$@"', "sh"],
        OCSPRELOAD_LOG=str(tmp_path / "missing" / "log"),
    )
    assert ran.returncode == 0 and ran.stdout == "3 stapled\n"
