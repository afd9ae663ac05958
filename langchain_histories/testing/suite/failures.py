"""Outages, refused passwords, a restarted server, and the errors that tell of them."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import HumanMessage

from langchain_histories import Capability, HistoryError, StoreUnavailableError
from langchain_histories.testing.messages import texts
from langchain_histories.testing.suite.fixtures import StoreFixtures

if TYPE_CHECKING:
    from langchain_histories import MessageStore
    from langchain_histories.testing.faces import Face
    from langchain_histories.testing.suite.fixtures import OpenStore


class FailureTests(StoreFixtures):
    """Rules 6, 14 and 15."""

    def test_unreachable(self, unreachable_store: MessageStore | None, face: Face) -> None:
        """Rule 6: a store that cannot be reached raises on every operation."""
        if unreachable_store is None:
            pytest.skip("the store has no server to be down")
        calls: list[tuple[str, tuple[Any, ...]]] = [
            ("read", ("s",)),
            ("append", ("s", [HumanMessage("x")])),
            ("count", ("s",)),
            ("clear", ("s",)),
        ]
        if self.has(Capability.SESSIONS):
            calls.append(("sessions", ()))
        for name, args in calls:
            with pytest.raises(StoreUnavailableError) as caught:
                getattr(face(unreachable_store), name)(*args)
            assert caught.value.__cause__ is not None
            assert caught.value.operation == name
            assert "could not be reached" in str(caught.value)

    def test_wrong_password(
        self, wrong_password_store: MessageStore | None, face: Face, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Rules 6 and 14: a refused password raises, and is in no `repr`, log line or error that led to another."""
        if wrong_password_store is None:
            pytest.skip("the store has no password")
        with caplog.at_level(logging.DEBUG), pytest.raises(StoreUnavailableError) as caught:
            face(wrong_password_store).read("s")
        assert "was refused" in str(caught.value)
        told = [repr(wrong_password_store), repr(wrong_password_store.history("s")), caplog.text]
        error: BaseException | None = caught.value
        while error is not None:
            told += [*traceback.format_exception(error), repr(error), repr(vars(error))]
            error = error.__cause__ or error.__context__
        assert not [text for text in told if "wrong-Secret7" in text]

    def test_a_restarted_server(self, open_store: OpenStore, server: Any, face: Face) -> None:
        """Rule 15: a restart costs no more than one failed call, and loses nothing."""
        if server is None:
            pytest.skip("the store has no server that the test may stop")
        with open_store() as store:
            face(store).append("s", [HumanMessage("before")])
            face(store).count("s")
            server.stop()
            try:
                with pytest.raises(StoreUnavailableError):
                    face(store).read("s")
            finally:
                server.start()
            try:
                face(store).append("s", [HumanMessage("after")])
            except StoreUnavailableError:
                face(store).append("s", [HumanMessage("after")])
            assert texts(face(store).read("s")) == ["before", "after"]

    def test_errors_are_of_one_tree(self, store: MessageStore, face: Face) -> None:
        """Everything that a store raises of its own is a HistoryError."""
        with pytest.raises(HistoryError):
            face(store).append("", [])
        with pytest.raises(HistoryError):
            face(store).append("s", [object()])
        with pytest.raises(HistoryError):
            face(store).read("s", last=-1)
