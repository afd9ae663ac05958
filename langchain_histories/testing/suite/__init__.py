"""The tests, shelved by topic. "Rule" and a number in a docstring: the rules that every store keeps.

| room | its tests are about |
|---|---|
| `fixtures.py` | what a store gives, and what all tests use |
| `batches.py` | order, whole batches, many writers |
| `records.py` | what comes back of a message; codec and hook |
| `objects.py` | any Python object in a message or a state |
| `foreign.py` | whatever is stored where a record or a state should be |
| `reads.py` | the last, the first, what is behind a position |
| `removal.py` | clear, erase, delete, replace |
| `expiry.py` | how sessions expire, and are swept and pruned |
| `travel.py` | records that go to another store and come back |
| `edits.py` | edit, take, insert, fork, rename, beside others |
| `meta.py` | what an application keeps of records |
| `sessions.py` | session ids, listing |
| `listing.py` | sessions from the newest on, titles |
| `state.py` | the document beside a transcript |
| `clients.py` | set-up, connections |
| `forks.py` | parent and child |
| `asynchronous.py` | event loops and cancellation |
| `failures.py` | outages, passwords, errors |
| `langchain.py` | LangChain's interface |
"""

from langchain_histories.testing.suite.asynchronous import AsyncTests
from langchain_histories.testing.suite.batches import BatchTests
from langchain_histories.testing.suite.clients import ClientTests
from langchain_histories.testing.suite.edits import EditTests
from langchain_histories.testing.suite.expiry import ExpiryTests
from langchain_histories.testing.suite.failures import FailureTests
from langchain_histories.testing.suite.foreign import ForeignTests
from langchain_histories.testing.suite.forks import ForkTests
from langchain_histories.testing.suite.langchain import LangChainTests
from langchain_histories.testing.suite.listing import ListingTests
from langchain_histories.testing.suite.meta import MetaTests
from langchain_histories.testing.suite.objects import ObjectTests
from langchain_histories.testing.suite.reads import ReadTests
from langchain_histories.testing.suite.records import RecordTests
from langchain_histories.testing.suite.removal import RemovalTests
from langchain_histories.testing.suite.sessions import SessionTests
from langchain_histories.testing.suite.state import StateTests
from langchain_histories.testing.suite.travel import TravelTests


class MessageStoreTests(
    ClientTests,
    BatchTests,
    RecordTests,
    ObjectTests,
    ForeignTests,
    ReadTests,
    RemovalTests,
    ExpiryTests,
    TravelTests,
    EditTests,
    MetaTests,
    SessionTests,
    ListingTests,
    StateTests,
    AsyncTests,
    ForkTests,
    FailureTests,
    LangChainTests,
):
    """The behaviour of every store. Subclass it and give `capabilities` and `open_store`."""
