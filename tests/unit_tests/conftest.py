"""Fixtures of the tests that need no server."""

from __future__ import annotations

import asyncio

import pytest
from conversations import Face


@pytest.fixture(params=["sync", "async"])
def face(request):
    """Each face of views; a test module with faces of another kind has a fixture of its own."""
    if request.param == "sync":
        yield Face()
    else:
        with asyncio.Runner() as runner:
            yield Face(runner)
