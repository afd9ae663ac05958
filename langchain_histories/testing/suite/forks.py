"""Forks: parent and child use the same store, in any order, while others write."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from langchain_core.messages import HumanMessage

from langchain_histories import Capability
from langchain_histories.testing import forking
from langchain_histories.testing.messages import texts
from langchain_histories.testing.suite.fixtures import StoreFixtures

if TYPE_CHECKING:
    from langchain_histories import MessageStore
    from langchain_histories.testing.suite.fixtures import OpenStore


class ForkTests(StoreFixtures):
    """Rule 11."""

    @pytest.fixture
    def forks(self) -> None:
        """Leave a test that this store or this system cannot run."""
        self.needs(Capability.PERSISTENT | Capability.MANY_PROCESSES)
        if not hasattr(os, "fork"):
            pytest.skip("this system has no fork")

    def test_after_fork(self, store: MessageStore, forks: None) -> None:  # noqa: ARG002
        """Rule 11: a forked child opens its own client, and its end does not disturb the parent."""
        store.append("s", [HumanMessage("parent")])
        child = os.fork()
        if child == 0:
            status = 1
            try:
                store.append("s", [HumanMessage("child")])
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        store.append("s", [HumanMessage("parent again")])
        assert texts(store.read("s")) == ["parent", "child", "parent again"]

    def test_who_goes_first(self, open_store: OpenStore, forks: None) -> None:  # noqa: ARG002
        """Rule 11: whoever uses, closes, drops or ends what when, nothing is lost, and nobody crashes or hangs."""
        self._check(open_store, forking.the_parent_goes, forking.the_parent_ends, forking.the_child_goes)

    def test_forks_while_others_write(self, open_store: OpenStore, forks: None) -> None:  # noqa: ARG002
        """Rule 11: the same while threads and an event loop write."""
        self._check(open_store, forking.others_write)

    def _check(self, open_store: OpenStore, *work: forking.Work) -> None:
        stored, statuses = forking.run(*work, open_store=open_store)
        assert statuses == [0] * len(statuses)
        with open_store() as store:
            for session_id, expected in stored.items():
                assert sorted(texts(store.read(session_id))) == sorted(expected)
