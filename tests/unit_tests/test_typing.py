"""The programs of `tests/typing_tests`, which the gate gives to mypy and pyright, run."""

from __future__ import annotations

import asyncio
import runpy
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent.parent / "typing_tests"


@pytest.mark.parametrize("program", ["programs", "plugin", "agents"])
def test_a_typed_program_runs(program):
    asyncio.run(runpy.run_path(str(PROGRAMS / f"{program}.py"))["main"]())


def test_no_program_is_forgotten():
    assert {path.stem for path in PROGRAMS.glob("*.py")} == {"programs", "plugin", "agents", "mistakes"}
