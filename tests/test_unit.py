# SPDX-License-Identifier: MIT
"""The unit tests in C: one program each, which says what failed and returns non-zero."""

import fcntl
import subprocess

import pytest
import servers
from servers import BUILD, PLAIN_ENVIRONMENT, ROOT, SANITIZE

NAMES = sorted(path.stem for path in (ROOT / "tests" / "unit").glob("test_*.c"))


@pytest.fixture(scope="module", autouse=True)
def built():
    """Several workers of pytest may come here at once, make should not."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "unit.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = ["make", "-C", str(ROOT), "unit", f"SANITIZE={SANITIZE}"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", NAMES)
def test_the_unit_holds(name, sanitizer_logs):
    if name == "test_week" and "thread" in SANITIZE:
        pytest.skip("it has one thread, and takes minutes with a sanitizer that looks for two")
    options = servers.Shim(sanitizer_logs).environment(LD_PRELOAD=None)
    command = [str(BUILD / "unit" / name)]
    if "thread" in SANITIZE:
        command = ["setarch", "-R", *command]
    environment = {**PLAIN_ENVIRONMENT, **{k: v for k, v in options.items() if "SAN_" in k}}
    result = subprocess.run(
        command,
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout + result.stderr
