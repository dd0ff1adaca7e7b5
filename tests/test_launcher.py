# SPDX-License-Identifier: MIT
"""scripts/ocspreload: the way to run one command under the shim by hand."""

import os
import pathlib
import shutil
import subprocess

import pytest
from client import assert_strict, handshake
from conftest import plain_build_only
from servers import LIBRARY, PLAIN_ENVIRONMENT, ROOT

SCRIPT = ROOT / "scripts" / "ocspreload"

# dash and env under a sanitizer's runtime prove nothing about the script.
pytestmark = plain_build_only


def launch(*arguments, script=SCRIPT, **environment):
    environment = {
        "OCSPRELOAD_LIBRARY": str(LIBRARY),
        "OCSPRELOAD_STORE": "off",
        **environment,
    }
    environment = {name: value for name, value in environment.items() if value is not None}
    return subprocess.run(
        [str(script), *map(str, arguments)],
        env={**PLAIN_ENVIRONMENT, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def variables(*arguments, **environment):
    """The environment that a command is given."""
    result = launch(*arguments, "env", **environment)
    assert result.returncode == 0, result.stderr
    return dict(line.split("=", 1) for line in result.stdout.splitlines())


def test_a_server_started_by_it_staples(nginx, issue, tmp_path):
    leaf = issue()
    server = nginx(leaf, shim=False, wrapper=[SCRIPT, "--log-level", "debug", "--"],
                   environment={"OCSPRELOAD_LIBRARY": str(LIBRARY), "OCSPRELOAD_STORE": "off"})
    assert_strict(handshake(server.port).staple, leaf, tmp_path)
    assert server.shim_lines("debug")


def test_the_command_keeps_its_arguments_and_its_exit_code():
    result = launch("sh", "-c", 'printf "<%s>" "$@"; echo e >&2; exit 7', "x", "a b", "", "*")
    assert (result.returncode, result.stdout, result.stderr) == (7, "<a b><><*>", "e\n")


def test_the_command_takes_the_place_of_the_script():
    with subprocess.Popen(
        [str(SCRIPT), "sh", "-c", "echo $$"],
        env={**PLAIN_ENVIRONMENT, "OCSPRELOAD_LIBRARY": str(LIBRARY)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert int(process.communicate(timeout=30)[0]) == process.pid


@pytest.mark.parametrize(
    "option, value, name",
    [
        ("--only", "nginx,haproxy", "OCSPRELOAD_ONLY"),
        ("--responder", "http://127.0.0.1/", "OCSPRELOAD_RESPONDER"),
        ("--trusted", "/a file", "OCSPRELOAD_TRUSTED"),
        ("--responses", "/a directory", "OCSPRELOAD_RESPONSES"),
        ("--agent", "@another", "OCSPRELOAD_AGENT"),
        ("--proxy", "http://127.0.0.1:3128/", "OCSPRELOAD_HTTP_PROXY"),
        ("--timeout", "5s", "OCSPRELOAD_TIMEOUT"),
        ("--startup-wait", "0", "OCSPRELOAD_STARTUP_WAIT"),
        ("--log", "syslog", "OCSPRELOAD_LOG"),
        ("--log-level", "debug", "OCSPRELOAD_LOG_LEVEL"),
    ],
)
def test_an_option_is_a_variable(option, value, name):
    assert variables(option, value)[name] == value
    assert variables(f"{option}={value}")[name] == value
    # What is said on the command line was said last.
    assert variables(option, value, **{name: "other"})[name] == value


def test_no_fetch_is_a_variable_too():
    assert variables("--no-fetch")["OCSPRELOAD_FETCH"] == "off"


def test_a_relative_file_becomes_absolute():
    assert variables("--trusted", "ca.pem")["OCSPRELOAD_TRUSTED"] == f"{os.getcwd()}/ca.pem"


@pytest.mark.parametrize("separator", [" ", ":"])
def test_what_was_preloaded_before_stays(separator):
    # One that is there on any machine: this Python's own.
    with open("/proc/self/maps", encoding="utf-8") as maps:
        other = next(line.split()[-1] for line in maps if "/libm" in line)
    before = separator.join([other, str(LIBRARY)])
    preload = variables(LD_PRELOAD=before)["LD_PRELOAD"]
    assert preload.replace(":", " ").split() == [str(LIBRARY), other]


def test_help_fits_a_screen():
    lines = launch("--help").stdout.splitlines()
    assert len(lines) <= 24 and all(len(line) <= 80 for line in lines)
    assert launch("--version").stdout.startswith("ocspreload ")


@pytest.mark.parametrize(
    "arguments, code",
    [
        ([], 2),
        (["--no-such-option", "true"], 2),
        (["--timeout"], 2),
        (["no-such-command"], 127),
        (["/no/such/command"], 127),
        (["/etc/passwd"], 126),
        (["/etc"], 126),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else str(value),
)
def test_what_cannot_be_run_is_said_before(arguments, code):
    result = launch(*arguments)
    assert result.returncode == code and result.stdout == ""
    assert result.stderr.startswith("ocspreload: ") and result.stderr.count("\n") == 1


def test_a_static_binary_is_refused(tmp_path):
    source = tmp_path / "static.c"
    source.write_text("int main(void) { return 0; }\n")
    program = tmp_path / "static"
    subprocess.run(["cc", "-static", "-o", str(program), str(source)], check=True)
    result = launch(program)
    assert result.returncode == 126 and "static" in result.stderr


def test_a_binary_of_another_machine_is_refused(tmp_path):
    program = tmp_path / "foreign"
    data = bytearray(pathlib.Path("/bin/true").read_bytes())
    data[18:20] = b"\xf3\x01"
    program.write_bytes(data)
    program.chmod(0o755)
    result = launch(program)
    assert result.returncode == 126 and "machine" in result.stderr


def test_a_library_that_is_not_there_is_said():
    assert launch("true", OCSPRELOAD_LIBRARY="/no/such/library.so").returncode == 2


def test_a_library_whose_path_ld_preload_cannot_carry_is_refused(tmp_path):
    directory = tmp_path / "with space"
    directory.mkdir()
    shutil.copy(LIBRARY, directory)
    result = launch("true", OCSPRELOAD_LIBRARY=str(directory / LIBRARY.name))
    assert result.returncode == 2 and "space" in result.stderr


def test_the_library_beside_the_script_is_found_through_a_link(tmp_path):
    beside = tmp_path / "tool"
    beside.mkdir()
    shutil.copy(SCRIPT, beside)
    shutil.copy(LIBRARY, beside)
    link = tmp_path / "link"
    link.symlink_to(beside / SCRIPT.name)
    result = launch("env", script=link, OCSPRELOAD_LIBRARY=None)
    assert f"LD_PRELOAD={beside / LIBRARY.name}" in result.stdout.splitlines()
