"""The guide `docs/write_a_store.md` runs word for word, in its order: files, commands, programs and what they print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

GUIDE = (Path(__file__).parents[2] / "docs" / "write_a_store.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^(?:`(?P<path>\S+)`:\n\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


class Author:
    """Does in a folder what the guide says."""

    def __init__(self, folder):
        self.folder = folder / "langchain-histories-sqlite3"
        self.folder.mkdir()
        self.site = folder / "site"
        self.kit_folder = folder / "kit"

    def run(self, *command):
        options = f"-q -p no:cacheprovider --basetemp={self.kit_folder}"
        path = os.pathsep.join([str(self.folder), str(self.site)])
        environment = {**os.environ, "PYTHONPATH": path, "PYTEST_ADDOPTS": options}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def write(self, path, text):
        (self.folder / path).parent.mkdir(exist_ok=True)
        (self.folder / path).write_text(text, encoding="utf-8")

    def install(self):
        """Make the package's metadata, which is what `pip install -e` does that this needs."""
        project = tomllib.loads((self.folder / "pyproject.toml").read_text())["project"]
        metadata = self.site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
        lines = [
            line
            for group, points in project["entry-points"].items()
            for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
        ]
        (metadata / "entry_points.txt").write_text("\n".join(lines))


def test_the_guide_runs(tmp_path):
    author, printed, tried = Author(tmp_path), "", []
    for path, language, text in BLOCK.findall(GUIDE):
        if path:
            author.write(path, text)
        elif language == "python":
            printed = author.run(sys.executable, "-c", text)
        elif language == "text":
            assert printed == text
        else:
            assert language == "bash"
            for command in text.splitlines():
                if command == "pip install -e '.[async,test]'":
                    author.install()
                else:
                    assert command == "pytest"
                    tried.append(author.run(sys.executable, "-m", "pytest"))
    smallest, full = (int(re.search(r"(\d+) passed", said)[1]) for said in tried)
    assert smallest > 100
    # With and without its async client. It lacks ttl, a server, a password, and on an event loop many processes.
    assert full > 300


def test_no_block_of_the_guide_is_left_out():
    assert GUIDE.count("```") == 2 * len(BLOCK.findall(GUIDE))


def test_the_guide_uses_only_what_authors_are_promised():
    promised = {"langchain_histories", "langchain_histories.stores.base", "langchain_histories.testing"}
    imported = re.findall(r"^\s*(?:from|import) (langchain_histories[\w.]*)", GUIDE, re.MULTILINE)
    assert {name for name in imported if not name.startswith("langchain_histories_sqlite3")} == promised
