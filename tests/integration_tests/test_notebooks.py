"""Each notebook runs, and prints what is saved in it."""

from __future__ import annotations

import importlib
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module", autouse=True)
def font_cache():
    """Matplotlib makes it once for a machine, and when that takes long tells on stderr, which would be compared."""
    importlib.import_module("matplotlib.font_manager")


def printed(notebook):
    """What each cell prints, and of an image only that it is there: its bytes depend on fonts."""
    return [
        ("".join(output.get("text", "") for output in cell.outputs), sum("image/png" in data for data in shown(cell)))
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def shown(cell):
    return [output.data for output in cell.outputs if output.output_type == "display_data"]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_prints_what_is_saved_in_it(path):
    saved = nbformat.read(path, as_version=4)
    again = nbformat.read(path, as_version=4)
    NotebookClient(again, timeout=120, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert printed(again) == printed(saved)
    kinds = {output.output_type for cell in saved.cells for output in cell.get("outputs", ())}
    assert kinds <= {"stream", "display_data"}


def test_the_demo_remembers_in_a_second_process():
    import subprocess
    import sys

    script = Path(__file__).parents[2] / "notebooks" / "demo.py"
    told = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert told.stderr == ""
    assert told.stdout.splitlines() == [
        "Process 1",
        "  Human: My name is Ivan.",
        "  AI:    Your name is Ivan.",
        "Process 2",
        "  Human: What is my name?",
        "  AI:    Your name is Ivan.",
    ]
