"""The conformance kit itself: it finds stores that do not keep what they promise, and says what it saw."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

BROKEN_STORES = '''
import functools

import frozen_stores
import pytest
from langchain_histories import Capability
from langchain_histories.testing import MessageStoreTests


class HalfBatches(frozen_stores.SQLite3Operations):
    """Says that a batch is whole even if its writer is killed, but only keeps readers out while it writes."""

    async def append(self, client, key, rows):
        with frozen_stores.Database(f"{client.path}.lock").transaction():
            for row in rows:
                await super().append(client, key, [row])

    async def read(self, client, key, **where):
        with frozen_stores.Database(f"{client.path}.lock").transaction():
            return await super().read(client, key, **where)


class Forgetful(frozen_stores.SQLite3Operations):
    """Says that something is stored before it is."""

    def __init__(self):
        super().__init__()
        self.waiting = []

    async def append(self, client, key, rows):
        self.waiting += rows
        if len(self.waiting) > 400:
            rows, self.waiting = self.waiting, []
            await super().append(client, key, rows)


class BrokenStore(frozen_stores.SQLite3Store):
    def __init__(self, kind, url, **options):
        super().__init__(url, **options)
        self._operations = kind()


class TestHalfBatches(MessageStoreTests):
    capabilities = HalfBatches.capabilities & ~Capability.NATIVE_ASYNC

    @pytest.fixture
    def open_store(self, tmp_path):
        return functools.partial(BrokenStore, HalfBatches, f"sqlite3://{tmp_path}/chat.db")


class TestForgetful(MessageStoreTests):
    capabilities = Forgetful.capabilities & ~Capability.NATIVE_ASYNC

    @pytest.fixture
    def open_store(self, tmp_path):
        return functools.partial(BrokenStore, Forgetful, f"sqlite3://{tmp_path}/chat.db")


class TestMinimalWithMorePromises(MessageStoreTests):
    capabilities = Capability.LARGE_SESSIONS | Capability.STATE

    @pytest.fixture
    def open_store(self):
        return functools.partial(frozen_stores.MinimalStore, client={})
'''


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    """The outcomes of the kit's tests on the broken stores, and what was printed."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "test_broken.py").write_text(BROKEN_STORES)
    chosen = "killed_writer or (Minimal and test_capabilities)"
    options = ["-vv", "-rA", "-p", "no:cacheprovider", f"--basetemp={folder / 'kit'}", "-k", chosen]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "test_broken.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(folder)])},
        capture_output=True,
        text=True,
        check=False,
    )
    outcomes = re.findall(r"^(PASSED|FAILED) \S+::(\w+)::(\S+)", done.stdout, re.MULTILINE)
    return {(cls, test): outcome for outcome, cls, test in outcomes}, done.stdout + done.stderr


def test_half_batches_and_lies_of_a_killed_writer_are_found(kit):
    outcomes, printed = kit
    killed = "test_a_killed_writer_leaves_whole_batches"
    assert outcomes["TestHalfBatches", killed] == outcomes["TestForgetful", killed] == "FAILED", printed
    # What was compared is shown.
    batch = r"^E +(?:AssertionError: )?assert \('killed \d, \d', \[(.*)\]\) == \('killed \d, \d', \["
    seen = re.search(batch, printed, re.MULTILINE)
    assert seen, printed
    assert 0 < seen[1].count(" of 150") < 150


def test_a_red_test_shows_what_it_compared(kit):
    outcomes, printed = kit
    assert outcomes["TestMinimalWithMorePromises", "test_capabilities"] == "FAILED", printed
    assert re.search(r"^E +assert .*<Capability.LARGE_SESSIONS: \d+>.* == .*STATE", printed, re.MULTILINE), printed
