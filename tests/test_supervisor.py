"""`serve` as an init system and the kernel treat it: signals, deaths, ports that are taken."""

import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from portal import __version__, supervisor
from portal.core.clock import now_ms
from portal.services.accounts import session_records
from portal.services.accounts.session_records import SmppSessionRecord
from tests.serving import clean_environment, find_child_pids, is_server_ready, stop_process
from tests.support import ROOT, wait_until

pytestmark = pytest.mark.slow


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_both_ends_are_there_when_it_is_ready(server):
    assert set(find_child_pids(server.process.pid)) == {"web", "smsc"}
    assert listens(server.port)
    assert listens(server.tls_port)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_within_five_seconds_and_leaves_nothing(server, number):
    pids = find_child_pids(server.process.pid).values()
    begun = time.monotonic()
    server.process.send_signal(number)
    assert server.process.wait(10) == 0
    assert time.monotonic() - begun < 5
    assert not any(is_alive(pid) for pid in pids)
    assert not listens(server.port)
    conn = server.connect()
    assert not session_records.is_component_alive(conn, "smsc")
    conn.close()


def test_it_stops_in_time_with_a_child_that_does_not_listen(server):
    stuck = find_child_pids(server.process.pid)["web"]
    os.kill(stuck, signal.SIGSTOP)
    begun = time.monotonic()
    assert stop_process(server.process) == 0
    assert time.monotonic() - begun < 6
    assert not is_alive(stuck)


@pytest.mark.parametrize("name", ["web", "smsc"])
def test_a_child_that_is_killed_is_started_again(server, name):
    before = find_child_pids(server.process.pid)
    os.kill(before[name], signal.SIGKILL)
    after = wait_until(
        lambda: (pids := find_child_pids(server.process.pid)).get(name) not in (None, before[name]) and pids
    )
    assert after.keys() == before.keys()
    other = "smsc" if name == "web" else "web"
    assert after[other] == before[other], "the other one goes on"
    wait_until(lambda: is_server_ready(server))
    assert listens(server.port)


def test_nobody_is_shown_as_connected_to_a_server_that_died(server, cast):
    conn = server.connect()
    now = now_ms()
    session_records.insert_smpp_sessions(
        conn, [SmppSessionRecord(99, cast.smpp_acme_1.id, "127.0.0.1", "receiver", "", 1, now, now)]
    )
    os.kill(find_child_pids(server.process.pid)["smsc"], signal.SIGKILL)
    wait_until(lambda: session_records.list_open_smpp_sessions(conn, cast.smpp_acme_1.id) == [])
    conn.close()


def test_the_children_end_when_the_supervisor_is_killed(server):
    pids = list(find_child_pids(server.process.pid).values())
    server.process.kill()
    server.process.wait()
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


def test_it_can_be_started_again_right_after_it_was_killed(serve):
    first = serve()
    first.process.kill()
    first.process.wait()
    assert is_server_ready(serve())


def test_a_second_server_on_the_same_data_is_refused(server, run_app):
    done = run_app("serve")
    assert (done.returncode, done.stdout) == (1, "")
    who = f"SMPP Portal {__version__} (process {server.process.pid})"
    assert done.stderr == f"{who} is running on {server.data} already.\n"
    assert is_server_ready(server)


@pytest.mark.parametrize("name", ["web", "smsc"])
def test_a_second_child_is_refused_too(server, run_app, name):
    done = run_app(name)
    assert done.returncode == 1
    assert "already" in done.stderr


@pytest.mark.parametrize(
    ("setting", "command"), [("web.port", "web"), ("smpp.port", "smsc"), ("smpp.tls_port", "smsc")]
)
def test_a_port_in_use_is_named_once(run_app, config, setting, command):
    section, key = setting.split(".")
    port = getattr(getattr(config, section), key)
    with socket.create_server(("127.0.0.1", port)):
        for each in ("serve", command):
            done = run_app(each)
            assert done.returncode == 1
            assert done.stderr == f"{setting}: 127.0.0.1:{port} is in use by another program\n"


def test_an_address_that_is_not_ours_is_named(run_app, data):
    file = data / "config.toml"
    file.write_text(file.read_text().replace("[smpp]", '[smpp]\nhost = "192.0.2.1"'))
    done = run_app("serve")
    assert done.returncode == 1
    assert done.stderr.startswith("smpp.host: ")


def test_restoring_is_refused_while_it_runs_and_backing_up_is_not(server, run_app, tmp_path):
    assert run_app("backup", tmp_path / "copy.db").returncode == 0
    done = run_app("restore", tmp_path / "copy.db")
    assert done.returncode == 1
    assert "Stop it first" in done.stderr
    stop_process(server.process)
    assert run_app("restore", tmp_path / "copy.db").returncode == 0


def test_an_old_database_is_brought_up_to_date_before_the_children_start(data, serve):
    conn = sqlite3.connect(data / "portal.db")
    names = [row[0] for row in conn.execute("SELECT name FROM _sqlite_migrations")]
    conn.close()
    assert names[0] == "m0001_initial"
    assert is_server_ready(serve())


@pytest.mark.parametrize("name", ["web", "smsc"])
def test_each_runs_alone_and_stops_by_sigterm(config, name):
    port = config.web.port if name == "web" else config.smpp.port
    process = subprocess.Popen([sys.executable, ROOT / "app.py", name, "--data", config.data], env=clean_environment())
    try:
        wait_until(lambda: listens(port), deadline_s=20)
    finally:
        assert stop_process(process) == 0


def test_settings_reach_the_children(serve, config, tmp_path, free_port):
    port = free_port()
    other = tmp_path / "other.toml"
    other.write_text((config.data / "config.toml").read_text().replace(str(config.smpp.port), str(port)))
    serve("--config", str(other))
    assert listens(port)
    assert not listens(config.smpp.port)


@pytest.mark.parametrize("token", ["", "s3cret"])
def test_it_is_ready_where_this_machine_is_a_trusted_proxy(data, config, token):
    file = data / "config.toml"
    settings = f'[web]\ntrusted_proxies = ["127.0.0.1"]\nmetrics_token = "{token}"'
    file.write_text(file.read_text().replace("[web]", settings))
    log = data / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, ROOT / "app.py", "serve", "--data", data], env=clean_environment(), stderr=stderr
        )
    try:
        wait_until(lambda: f" ready: {config.public_url}\n" in log.read_text(), deadline_s=20)
    finally:
        assert stop_process(process) == 0


def test_a_shells_limit_of_open_files_is_raised():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard // 2 if soft == hard else soft // 2, hard))
    lowered = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    supervisor.increase_open_file_limit()
    assert lowered < resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= 65_536
