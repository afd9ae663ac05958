"""What a store gives to the tests, and what all of them use."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import pytest

from langchain_histories import Capability
from langchain_histories.testing.faces import Face

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from langchain_histories import MessageStore

    OpenStore = Callable[..., MessageStore]


class QuietServer(Protocol):
    """A server, or what is before it, that can be told to be quiet."""

    def open_store(self, **options: Any) -> MessageStore:
        """Open the store on one and the same empty place, through what can be quiet."""
        ...

    def hush(self, *, hears: bool) -> None:
        """Answer nothing from now on, on open connections and on new ones, which are accepted.

        Args:
            hears: Whether what is asked is done all the same.
        """
        ...

    def answer(self) -> None:
        """Answer again."""
        ...


class StoreFixtures:
    """What a store gives, and what the tests use.

    Attributes:
        capabilities: What the store must say it can do. Tests of what it does not have are skipped.
        driver_blocks_in: Functions in which the driver makes blocking calls on the event loop and no option of it
            prevents that: a part of the path of the file, and the name. The store's documentation says so.
    """

    capabilities: ClassVar[Capability]
    driver_blocks_in: ClassVar[Sequence[tuple[str, str]]] = ()

    # What a store gives.

    @pytest.fixture
    def open_store(self) -> OpenStore:
        """A factory of the store, taking any options; one empty place for each test."""
        raise NotImplementedError

    @pytest.fixture
    def unreachable_store(self) -> MessageStore | None:
        """The store where nobody answers; `None` if it has no such thing."""
        return None

    @pytest.fixture
    def wrong_password_store(self) -> MessageStore | None:
        """The store with a password that ends in `wrong-Secret7`; `None` if it has no such thing.

        Give it the odd characters that a password may have in the service, such as `/ ? # @ : %` and a quote.
        """
        return None

    @pytest.fixture
    def server(self) -> Any:
        """What is behind the store, with `stop()` and `start()`, which keep the data; `None` if nothing is."""
        return None

    @pytest.fixture
    def quiet_server(self) -> QuietServer | None:
        """The server behind something that can be quiet; `None` if it has no such thing."""
        return None

    def traces(self, store: MessageStore) -> list[str] | None:  # noqa: ARG002
        """Name everything that the place of this test holds: keys, rows, files; `None` if that cannot be told."""
        return None

    def places(self, store: MessageStore) -> list[str] | None:  # noqa: ARG002
        """Name the tables, indexes, topics, folders and files of this test's place, and make none by looking.

        `None` if that cannot be told.
        """
        return None

    def files(self, store: MessageStore) -> list[Path] | None:  # noqa: ARG002
        """Return the files that hold all there is at the place of this test; `None` if the store has no such thing."""
        return None

    def foreign_rows(self, store: MessageStore, session_id: str) -> list[Callable[[], object]] | None:  # noqa: ARG002
        """Calls that each leave something among the records of a session that is none, in the service's own types.

        Such as a number, nothing, bytes that are no UTF-8. `None` if the service takes texts alone.
        """
        return None

    def broken_sessions(self, store: MessageStore, session_id: str) -> list[Callable[[], object]] | None:  # noqa: ARG002
        """Calls that each break what the store keeps of a session beside its records; `None` if it keeps nothing."""
        return None

    # What the tests use.

    @pytest.fixture
    def store(self, open_store: OpenStore) -> Iterator[MessageStore]:
        """The store of this test."""
        with open_store() as store:
            yield store

    @pytest.fixture
    def runner(self, open_store: OpenStore) -> Iterator[asyncio.Runner]:  # noqa: ARG002  # closed before the server
        """The event loop of the async face."""
        with asyncio.Runner() as runner:
            yield runner

    @pytest.fixture(params=["sync", "async"])
    def face(self, request: pytest.FixtureRequest, runner: asyncio.Runner) -> Face:
        """Each face in turn."""
        return Face(runner if request.param == "async" else None)

    @pytest.fixture(params=list(itertools.product(["sync", "async"], repeat=2)), ids="-".join)
    def faces(self, request: pytest.FixtureRequest, runner: asyncio.Runner) -> tuple[Face, Face]:
        """A face that writes and a face that reads, in all four pairs."""
        write, read = (Face(runner if name == "async" else None) for name in request.param)
        return write, read

    def has(self, capability: Capability) -> bool:
        """Whether the store has all of these capabilities."""
        return capability in self.capabilities

    def needs(self, capability: Capability) -> None:
        """Leave a test that is about something that this store does not have."""
        if not self.has(capability):
            pytest.skip(f"the store has no {(capability & ~self.capabilities).name}")

    def remains(self, store: MessageStore) -> list[str] | None:
        """The traces in a store that has promised to leave none."""
        return self.traces(store) if self.has(Capability.LEAVES_NO_TRACE) else None

    def is_stored(self, store: MessageStore, text: str) -> bool:
        """Whether a text is in a file of the store. The test is left if it has none."""
        paths = self.files(store)
        if paths is None:
            pytest.skip("the store has no files that the test may read")
        return any(text.encode() in path.read_bytes() for path in paths)
