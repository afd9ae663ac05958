"""A served application: its master has used the stores, and its workers are killed, recycled and reloaded under load."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest

from langchain_histories import open_store

# By hand: SERVED_SECONDS=60 pytest --junitxml=served.xml tests/integration_tests/test_served.py; the file has the counts.
SECONDS = float(os.environ.get("SERVED_SECONDS", "4"))
# Until the application is up.
PATIENCE = 60.0
# A request that was with a worker when it was killed may never be answered.
ANSWER = 15.0
CALLERS = 6
WORKERS = 3

SETTINGS = """
bind = "unix:{socket}"
workers = {workers}
preload_app = True
max_requests = 40
max_requests_jitter = 20
timeout = 30
control_socket_disable = True
graceful_timeout = 10
"""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket, so that the test takes no port."""

    def __init__(self, path):
        super().__init__("localhost", timeout=ANSWER)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(path, store, session_id, text):
    """The answer, `None` if there was none."""
    connection = UnixConnection(str(path))
    with contextlib.closing(connection):
        try:
            connection.request("POST", f"/{store}/{session_id}", text)
            response = connection.getresponse()
            answer = response.read().decode()
        except (OSError, http.client.HTTPException):
            return None
    return answer if response.status == 200 else None


def children(process):
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def disturb(master, until):
    """Kill a worker, end one, replace all of them, in turn; return what was done."""
    chance = random.Random(7)
    done = Counter()
    while time.monotonic() < until:
        time.sleep(0.2 + chance.random() / 2)
        workers = children(master)
        # gunicorn replaces workers one signal after the other, and each takes a while to end.
        if len(workers) != WORKERS:
            continue
        kind = ("killed", "ended", "reloaded")[sum(done.values()) % 3]
        with contextlib.suppress(ProcessLookupError):
            if kind == "reloaded":
                os.kill(master, signal.SIGHUP)
            else:
                os.kill(chance.choice(workers), signal.SIGKILL if kind == "killed" else signal.SIGTERM)
        done[kind] += 1
    return done


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the test finds gunicorn's workers in /proc")
@pytest.mark.parametrize(
    ("worker", "app"), [("sync", "app"), ("uvicorn_worker.UvicornWorker", "asgi_app")], ids=["sync", "uvicorn"]
)
def test_every_answer_is_stored_once(worker, app, servers, tmp_path, record_property):
    name = f"s{uuid.uuid4().hex}"
    histories = {
        "sqlite": {"url": f"sqlite:///{tmp_path}/chat.db"},
        "redis": {"url": servers.get("redis").url, "key_prefix": f"{name}:"},
        "postgres": {"url": servers.get("postgres").url, "table_name": name},
    }
    settings, path, log = (tmp_path / each for each in ("settings.py", "socket", "log"))
    settings.write_text(SETTINGS.format(socket=path, workers=WORKERS))
    command = [sys.executable, "-m", "gunicorn", "-c", settings, "-k", worker, f"served:{app}"]
    environment = {
        **os.environ,
        "HISTORIES": json.dumps(histories),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    answered = {(store, "master"): ["master"] for store in histories}
    asked = Counter()

    def call(caller):
        number = 0
        while time.monotonic() < until:
            number += 1
            store = list(histories)[number % len(histories)]
            session_id, text = f"{caller}-{number % 4}", f"{caller}: {number}"
            asked[store] += 1
            answer = ask(path, store, session_id, text)
            if answer is not None:
                assert answer == f"{text}!"
                answered.setdefault((store, session_id), []).append(text)

    with log.open("wb") as output:
        master = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=output, stderr=output)
    try:
        begun = time.monotonic()
        while not path.exists() or ask(path, "sqlite", "first", "first") is None:
            assert master.poll() is None, log.read_text()
            assert time.monotonic() < begun + PATIENCE, log.read_text()
            time.sleep(0.05)
        until = time.monotonic() + SECONDS
        threads = [threading.Thread(target=call, args=[caller]) for caller in range(CALLERS)]
        for thread in threads:
            thread.start()
        done = disturb(master.pid, until)
        for thread in threads:
            thread.join()
    finally:
        master.terminate()
        master.wait(PATIENCE)
    counts = Counter()
    for store, options in histories.items():
        with open_store(**options) as opened:
            for session_id in {info.session_id for info in opened.sessions()}:
                texts = [str(message.content) for message in opened.read(session_id)]
                questions = texts[::2]
                assert texts[1::2] == [f"{text}!" for text in questions]
                assert len(set(questions)) == len(questions)
                ours = answered.get((store, session_id), [])
                assert [text for text in questions if text in set(ours)] == ours
                counts[store] += len(ours)
    assert sum(counts.values()) == sum(map(len, answered.values()))
    assert min(counts.values()) > 1
    assert done
    record_property("served", f"asked {dict(asked)}, answered {dict(counts)}, workers {dict(done)}")
    assert "Traceback" not in log.read_text()
