"""Outages, refused passwords, a server that is quiet or restarted, and the errors that tell of them."""

from __future__ import annotations

import logging
import time
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
    from langchain_histories.testing.suite.fixtures import OpenStore, QuietServer

# Seconds: what a hasty store waits for an answer, and how much later it may say so.
_HASTE, _GRACE = 0.3, 1.0
# Of the minute that the stores of these tests have; connecting may take five seconds, twice, on a busy machine.
_TOLD_WITHIN = 30
_TRIES = 20
"""Of a hasty store on a busy machine."""


class FailureTests(StoreFixtures):
    """Rules 6, 14, 15 and 21."""

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
        """Rules 15 and 20: no call that begins after a restart fails, and nothing is lost.

        That nothing answers is told in about the time for connecting, however long a call may take.
        Several connections are open at the restart, and the store looks at one alone while nothing answers.
        """
        if server is None:
            pytest.skip("the store has no server that the test may stop")
        reads = [("read", ("s",)), ("count", ("s",)), ("read", ("s",)), ("count", ("s",))]
        with open_store() as store:
            face(store).append("s", [HumanMessage("before")])
            assert [error for _, error in face.at_once(store, reads)] == [None] * len(reads)
            server.stop()
            try:
                began = time.monotonic()
                with pytest.raises(StoreUnavailableError):
                    face(store).read("s")
                took = time.monotonic() - began
            finally:
                server.start()
            assert took < _TOLD_WITHIN
            face(store).append("s", [HumanMessage("after")])
            assert [error for _, error in face.at_once(store, reads)] == [None] * len(reads)
            assert texts(face(store).read("s")) == ["before", "after"]
            face(store).close()

    def test_a_quiet_server(self, quiet_server: QuietServer | None, face: Face) -> None:
        """Rule 21: a call that gets no answer ends in time; its batch, appended again, is stored once.

        The calls are made at once, so one finds an open connection and the others make theirs.
        """
        if quiet_server is None:
            pytest.skip("the store has no server that a test may silence")
        has_state = self.has(Capability.STATE)
        with quiet_server.open_store(timeout=60) as patient, quiet_server.open_store(timeout=_HASTE) as hasty:
            face(patient).append("told", [HumanMessage("1")])
            calls: list[tuple[str, tuple[Any, ...]]] = [
                ("append", ("told", [HumanMessage("2"), HumanMessage("3")])),
                ("read", ("a",)),
                ("count", ("b",)),
            ]
            if has_state:
                face(patient).put_state("c", {"n": 1})
                calls += [("get_state", ("c",)), ("update_state", ("d", _next))]
            for name, args in calls:
                _in_the_end(face(hasty), name, *(("e", *args[1:]) if args[0] == "told" else args))

            quiet_server.hush(hears=True)
            ((took, error),) = face.at_once(hasty, [("append", ("told", [HumanMessage("4")]))])
            quiet_server.answer()
            told = [(took, "append", error)]
            assert "may have been stored" in str(error)

            for _ in range(3):  # a machine with other work may be late once, a call without an end always is
                quiet_server.hush(hears=False)
                results = face.at_once(hasty, calls)
                quiet_server.answer()
                told += [(took, name, error) for (name, _), (took, error) in zip(calls, results, strict=True)]
                if max(took for took, _ in results) < _HASTE + _GRACE:
                    break
            else:
                raise AssertionError(f"no answer was told late: {told}")
            for _, name, error in told:
                assert isinstance(error, StoreUnavailableError), (name, error)
                assert (error.batch is not None) == (name == "append")
            batches = [error.batch for _, _, error in told[:2] if isinstance(error, StoreUnavailableError)]
            for batch in batches * 2:
                face(patient).append("told", batch)
            assert texts(face(patient).read("told")) == ["1", "4", "2", "3"]
            assert face(patient).count("told") == 4
            face(patient).close()
            face(hasty).close()

    def test_errors_are_of_one_tree(self, store: MessageStore, face: Face) -> None:
        """Everything that a store raises of its own is a HistoryError."""
        with pytest.raises(HistoryError):
            face(store).append("", [])
        with pytest.raises(HistoryError):
            face(store).append("s", [object()])
        with pytest.raises(HistoryError):
            face(store).read("s", last=-1)


def _next(state: dict[str, Any] | None) -> dict[str, Any]:
    return {"n": (state or {"n": 0})["n"] + 1}


def _in_the_end(store: Any, name: str, *args: Any) -> None:
    """Call a store that is hasty until it has an answer: to connect takes its time."""
    for number in range(_TRIES):
        try:
            getattr(store, name)(*args)
            break
        except StoreUnavailableError:
            if number == _TRIES - 1:
                raise
