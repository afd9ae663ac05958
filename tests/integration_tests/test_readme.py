"""Each block of the README runs in the environment that the install lines above it make, and does what it says.

The notebook that needs a package beside ours runs in the environment that it says to install.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from langchain_histories import HistoryRegistry

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
INSTALLS = [number for number, (language, text) in enumerate(BLOCKS) if language == "bash" and "pip install" in text]


def blocks(language):
    return [text for kind, text in BLOCKS if kind == language]


class Environment:
    """A virtual environment, kept between runs because all that is compiled in it takes long."""

    def __init__(self, name):
        self.uv = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".tools/bin/uv")
        self.folder = ROOT / ".cache" / "environments" / name
        self.python = self.folder / "bin" / "python"
        self._run([self.uv, "venv", "--quiet", "--clear", str(self.folder)])

    def install(self, line):
        """Do what a line of `pip install` says, in a checkout."""
        what = [word.strip("'") for word in line.partition("pip install")[2].partition("#")[0].split()]
        what = [f"{ROOT}{word[1:]}" if word.startswith(".") else word for word in what]
        # uv does not see that a file of the package has changed.
        self._run(
            [
                self.uv,
                "pip",
                "install",
                "--quiet",
                "--python",
                str(self.python),
                "--reinstall-package",
                "langchain-histories",
                *what,
            ]
        )

    def run(self, *command, cwd):
        return self._run([str(self.python), *command], cwd=cwd)

    @staticmethod
    def _run(command, cwd=None):
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def environment():
    return Environment("readme")


@pytest.mark.parametrize("step", range(len(INSTALLS)))
def test_the_blocks_run_with_what_was_installed_above_them(environment, tmp_path, step):
    """The steps install into one environment, as a reader does, so they run in order."""
    end = (*INSTALLS, len(BLOCKS))[step + 1]
    for line in BLOCKS[INSTALLS[step]][1].splitlines():
        environment.install(line)
    code = "\n".join(
        text for language, text in BLOCKS[:end] if language == "python" and "MessageStoreTests" not in text
    )
    checks = CHECKS if end == len(BLOCKS) else ""
    (tmp_path / "readme.py").write_text(code + checks)
    told = environment.run("readme.py", cwd=tmp_path)
    assert told.startswith(blocks("text")[0])
    assert told.count("['My name is Ivan.']") == 2
    assert "Human: What is a transcript?\nAI: Everything that was said, in order.\n" in told
    if "create_agent" in code:
        assert "You are Ivan.\n6 messages\n" in told
    if checks:
        assert b"1234" not in (tmp_path / "chat.db").read_bytes()


CHECKS = """
assert registry.store().count("46") == 2
assert registry.store().sessions(user_id="ivan") == []
assert history.messages[0].content == "My order number is 7919."
assert window.messages == history.messages
assert report.records == 4
assert [record.meta for record in store.records("53")] == [{"channel": "web", "seen": True}] * 2 + [{"channel": "phone", "author": "ada", "seen": True}]
assert digest(files) == digest(open_store("sqlite:///chat.db"), sessions=["42"])
registry.close()
"""


def test_the_kit_runs(environment, tmp_path):
    """The README's kit is one that tries a store: a part of it shows that."""
    environment.install(BLOCKS[INSTALLS[-1]][1])
    (tmp_path / "test_my_store.py").write_text(blocks("python")[-1])
    told = environment.run(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "clear or replace", "test_my_store.py"), cwd=tmp_path
    )
    assert re.search(r"^\d\d passed", told, re.MULTILINE)


def test_the_first_notebook_runs_with_what_it_says_to_install(tmp_path):
    notebook = ROOT / "notebooks" / "1_histories.ipynb"
    (line,) = re.findall(r"pip install .*?(?=\\n)", notebook.read_text(encoding="utf-8"))
    environment = Environment("notebook")
    environment.install(line)
    environment.install("pip install ipykernel nbclient nbformat")
    run = "import nbclient, nbformat, sys; nbclient.NotebookClient(nbformat.read(sys.argv[1], 4)).execute()"
    environment.run("-c", run, str(notebook), cwd=tmp_path)


def test_every_claim_of_a_block_is_run():
    assert len(blocks("python")) == 16
    assert len(blocks("toml")) == 2


def test_summaries_by_config(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "histories.toml").write_text(blocks("toml")[1])
    history = HistoryRegistry.from_config("histories.toml").history("42")
    assert history.summarizer.model.model_name == "gpt-4o-mini"


def test_a_config_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:9")
    (tmp_path / "histories.toml").write_text(blocks("toml")[0])
    assert HistoryRegistry.from_config("histories.toml").store().ttl == 604800
