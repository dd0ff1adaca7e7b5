# SPDX-License-Identifier: MIT
"""nginx under valgrind's memcheck: no error has the shim in its stack."""

import re

import pytest
import responder as r
from client import assert_strict, handshake
from conftest import plain_build_only
from servers import LIBRARY, ROOT
from support import wait_until

pytestmark = plain_build_only

# A frame shows its source where that is known, and its library where not.
OURS = (f"{ROOT}/shim/", f"{ROOT}/fetcher/", LIBRARY.name)


def shim_errors(logs):
    """The paragraphs of valgrind's logs that name the shim, one string each."""
    errors = []
    for log in logs:
        text = log.read_text(errors="replace")
        for pid in set(re.findall(r"^==(\d+)==", text, re.MULTILINE)):
            lines = re.findall(rf"^=={pid}== ?(.*)$", text, re.MULTILINE)
            paragraphs = "\n".join(lines).split("\n\n")
            errors += [part for part in paragraphs if any(name in part for name in OURS)]
    return errors


@pytest.mark.parametrize("mode", ["single", "daemon"])
def test_memcheck_finds_nothing(nginx, issue, responder, mode, tmp_path):
    one = issue("one.test", behaviour=r.soon_due(30))
    two = issue("two.test", behaviour=r.error("TRY_LATER"))
    # After a fork, what the thread of the parent held counts as lost in the child.
    leaks = "full" if mode == "single" else "no"
    server = nginx(
        one,
        two,
        mode=mode,
        environment={"OCSPRELOAD_STARTUP_WAIT": "60s"},
        wrapper=["valgrind", "--trace-children=yes", f"--leak-check={leaks}", "--num-callers=30"]
        + ["--show-leak-kinds=definite", "--fullpath-after=", f"--log-file={tmp_path}/memcheck.%p"],
    )
    for tls in ("1.2", "1.3"):
        assert_strict(handshake(server.port, tls=tls).staple, one, tmp_path)
    wait_until(lambda: responder.count(one) >= 2, 120)
    assert handshake(server.port).stapled
    server.stop()
    logs = list(tmp_path.glob("memcheck.*"))
    assert logs and all("ERROR SUMMARY" in log.read_text(errors="replace") for log in logs)
    assert not shim_errors(logs), "\n\n".join(shim_errors(logs))
