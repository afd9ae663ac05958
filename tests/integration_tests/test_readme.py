"""The README's Python runs as it stands, in order, and does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from langchain_histories import HistoryRegistry

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.filterwarnings("ignore:RunnableWithMessageHistory is deprecated")
def test_the_readme_runs(tmp_path, monkeypatch, redis_server, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    (tmp_path / "histories.toml").write_text(blocks("toml")[0])
    namespace = {"__name__": "readme"}
    quick_start, *rest = blocks("python")
    exec(compile(quick_start, "README.md", "exec"), namespace)
    stored = namespace["registry"].history("42").messages
    assert [message.content for message in stored][-2:] == ["My name is Ivan.", "Hello, Ivan!"]
    for code in rest:
        exec(compile(code, "README.md", "exec"), namespace)
    told = capsys.readouterr().out
    assert told.count("['My name is Ivan.']") == 3
    assert "Human: What is a transcript?\nAI: Everything that was said, in order.\n" in told
    assert "You are Ivan.\n5 messages\n" in told
    assert namespace["registry"].store().count("46") == 2
    assert b"1234" not in (tmp_path / "chat.db").read_bytes()
    assert namespace["registry"].store().sessions(user_id="ivan") == []
    namespace["secret"].store.close()
    assert [message.content for message in namespace["history"].messages] == ["My order number is 7919."]
    assert namespace["window"].messages == namespace["history"].messages
    namespace["history"].history.store.close()


def test_the_kit_runs(tmp_path):
    """The README's kit is one that tries a store: a part of it shows that."""
    (tmp_path / "test_my_store.py").write_text(blocks("python")[-1])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'kit'}"]
    done = subprocess.run(
        [*command, "-k", "clear or replace"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d\d passed", done.stdout, re.MULTILINE)


def test_every_claim_of_a_block_is_run():
    assert len(blocks("python")) == 12
    assert len(blocks("toml")) == 2


def test_summaries_by_config(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "histories.toml").write_text(blocks("toml")[1])
    history = HistoryRegistry.from_config("histories.toml").history("42")
    assert history.summarizer.model.model_name == "gpt-4o-mini"
