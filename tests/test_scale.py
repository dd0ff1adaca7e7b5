# SPDX-License-Identifier: MIT
"""Thousands of certificates in one server."""

import subprocess

import pytest
import servers

HOST = servers.BUILD / "hosts" / "crowd_host"
# A sanitizer slows the making of ten thousand certificates more than it shows.
COUNT = 500 if servers.SANITIZE else 10000
LATENCY = 50  # milliseconds
# In the fetcher's headers: RESPONDER_MOST.
AT_ONCE = 48


def run(shim, directory, count=COUNT):
    """What crowd_host counted, and the shim's log."""
    log = directory / "log"
    log.unlink(missing_ok=True)
    environment = shim.environment(
        OCSPRELOAD_STORE=str(directory),
        OCSPRELOAD_STARTUP_WAIT="100ms",
        OCSPRELOAD_LOG=str(log),
        OCSPRELOAD_LOG_LEVEL="info",
    )
    result = subprocess.run(
        shim.command([str(HOST), str(directory), str(count), str(LATENCY)]),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    print(result.stdout)
    counted = {name: int(value) for name, value in (w.split("=") for w in result.stdout.split())}
    return counted, log.read_text() if log.exists() else ""


@pytest.fixture
def crowd(shim, tmp_path):
    if not HOST.exists():
        pytest.fail(f"{HOST} is not there: run make unit first")
    return lambda: run(shim, tmp_path)


def test_ten_thousand_certificates_loaded_at_once_are_all_stapled(crowd, tmp_path):
    # That none is missing, and none has another's response, the host sees for itself.
    first, log = crowd()
    assert first["requests"] == COUNT
    assert first["at_once"] <= AT_ONCE and first["connections"] <= AT_ONCE
    # 48 every 50 ms are 10.4 s of 10,000. How busy this machine is nobody knows: what hangs, or
    # asks for one after the other (500 s), takes longer than this.
    assert first["stapled"] < 120_000
    assert log.count("stapling the response of http") == COUNT
    assert not [line for line in log.splitlines() if " error: " in line or " warning: " in line]
    assert len(list(tmp_path.glob("*.der"))) == COUNT

    # All over again, with all of them in the store: nobody is asked.
    second, _ = crowd()
    assert second["requests"] == 0
