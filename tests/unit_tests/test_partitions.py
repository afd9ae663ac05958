"""The sessions in partitions, over a service that is a dict: what no server can be made to do at the right moment."""

import asyncio
import functools
import json
import threading
import time

import pytest
from broken import broken_heads, broken_references
from edited import Twins
from langchain_core.messages import HumanMessage

from langchain_histories._neutral import drive
from langchain_histories.errors import RecordTooLargeError, StoreError
from langchain_histories.stores.base import ANY_STATE, Capability, Clients, MessageStore
from langchain_histories.stores.shared import partitions, tries
from langchain_histories.stores.shared.partitions import HEAD, Item, PartitionOperations
from langchain_histories.testing import MessageStoreTests


class Service:
    """Partitions of items, one transaction at a time."""

    def __init__(self):
        self.partitions = {}
        self.lock = threading.Lock()
        self.before_commit = None
        self.before_query = None
        self.after_page = None
        self.read = 0

    def get(self, key, sort):
        self.read += 1
        text = self.partitions.get(key, {}).get(sort, (None, None))[0]
        return None if text is None else Item(sort, text)

    def query(self, key, start, stop, limit, reverse):
        act, self.before_query = self.before_query, None
        if act is not None:
            act()
        with self.lock:
            items = sorted(self.partitions.get(key, {}).items(), reverse=reverse)
        found = [Item(sort, text) for sort, (text, _) in items if start <= sort <= stop][:limit]
        self.read += len(found)
        return found

    def commit(self, key, writes):
        if self.before_commit is not None:
            self.before_commit(key, writes)
        with self.lock:
            items = self.partitions.setdefault(key, {})
            for write in writes:
                there = items.get(write.sort, (None, None))[0]
                if write.expected is not ANY_STATE and there != (write.expected and write.expected.text):
                    return False
            for write in writes:
                items.pop(write.sort, None)
                if write.text is not None:
                    items[write.sort] = (write.text, write.expires)
            if not items:
                del self.partitions[key]
            return True


class FakeOperations(PartitionOperations[Service]):
    name = "fake"
    capabilities = ~(Capability.NATIVE_ASYNC | Capability.PERSISTENT | Capability.MANY_PROCESSES | Capability.NEWEST)
    max_writes = 5
    max_text = 30_000
    max_transaction = 60_000
    overhead = 100

    def is_async(self, client):
        return False

    async def _get(self, client, key, sort):
        return client.get(key, sort)

    async def _query(self, client, key, start, stop, *, limit=None, reverse=False):
        found = client.query(key, start, stop, limit, reverse)
        act, client.after_page = client.after_page, None
        if act is None:
            return found
        # As the service does it: one page, and the rest as it is later.
        act()
        return found[:1] + [
            item for item in client.query(key, start, stop, limit, reverse) if item.sort > found[0].sort
        ]

    async def _commit(self, client, key, writes):
        assert len(writes) <= self.max_writes
        assert all(len((write.text or "").encode()) <= self.max_text for write in writes if write.sort != HEAD)
        return client.commit(key, writes)

    async def _heads(self, client, prefix):
        return [
            (key, Item(HEAD, items[HEAD][0]))
            for key, items in list(client.partitions.items())
            if key.startswith(prefix) and HEAD in items
        ]

    async def _keys(self, client, prefix):
        return {key for key in client.partitions if key.startswith(prefix)}


class RoomierOperations(FakeOperations):
    """With room for the states of the kit."""

    max_text = 250_000
    max_transaction = 300_000


class FakeStore(MessageStore):
    def __init__(self, service, operations=FakeOperations, **options):
        super().__init__(operations(), Clients(client=service), **options)


class TestPartitionOperations(MessageStoreTests):
    capabilities = FakeOperations.capabilities

    @pytest.fixture
    def service(self):
        return Service()

    @pytest.fixture
    def open_store(self, service):
        return lambda **options: FakeStore(service, RoomierOperations, **options)

    def traces(self, store):
        return sorted(store.client.partitions)

    places = traces

    def foreign_rows(self, store, session_id):
        return broken_references(store, session_id)

    def broken_sessions(self, store, session_id):
        return broken_heads(store, session_id)


@pytest.fixture
def service():
    return Service()


@pytest.fixture
def store(service):
    return FakeStore(service)


def texts(store, **where):
    return [message.content for message in store.read("s", **where)]


def numbers(count, start=0):
    return [HumanMessage(str(number)) for number in range(start, start + count)]


class DiedError(Exception):
    pass


def die_at(service, wanted):
    """Let the writer die before the transaction that `wanted` picks."""

    def before_commit(key, writes):
        if wanted(writes):
            service.before_commit = None
            raise DiedError

    service.before_commit = before_commit


def once(service, wanted, act):
    """Do something just before a transaction that `wanted` picks."""

    def before_commit(key, writes):
        if wanted(writes):
            service.before_commit = None
            act()

    service.before_commit = before_commit


def moves_head(writes):
    return any(write.sort == HEAD and write.text is not None for write in writes)


def stages(writes):
    return writes[0].sort.startswith("b")


@pytest.mark.parametrize("moment", [stages, lambda writes: any(write.sort.endswith("b") for write in writes)])
def test_a_writer_that_dies_leaves_nothing_that_is_seen(store, service, moment):
    store.append("s", numbers(2))
    die_at(service, moment)
    with pytest.raises(DiedError):
        store.append("s", numbers(50, 100))
    assert texts(store) == ["0", "1"]
    store.append("s", numbers(50, 2))
    assert texts(store) == [str(number) for number in range(52)]
    store.clear("s")
    assert service.partitions == {}


def test_the_first_batch_of_a_session_may_be_large(store, service):
    die_at(service, stages)
    with pytest.raises(DiedError):
        store.append("s", numbers(50))
    assert texts(store) == []
    assert store.sessions() == []
    store.append("s", numbers(50))
    assert store.count("s") == 50


@pytest.mark.parametrize("count", [2, 50])
@pytest.mark.parametrize("other", ["append", "clear", "replace", "put_state", "delete"])
@pytest.mark.parametrize("begun", [True, False])
def test_others_come_between(store, service, count, other, begun):
    ids = store.append("s", numbers(3)) if begun else []
    before = ["0", "1", "2"] if begun else []
    done = {
        "append": (lambda: store.append("s", [HumanMessage("other")]), [*before, "other"]),
        "clear": (lambda: store.clear("s"), []),
        "replace": (lambda: store.replace("s", numbers(9, 50)), [str(number) for number in range(50, 59)]),
        "put_state": (lambda: store.put_state("s", {"a": 1}), before),
        "delete": (lambda: store.delete("s", ids[:1]), before[1:]),
    }
    act, left = done[other]
    once(service, lambda writes: moves_head(writes) and len(writes) > 1, act)
    store.append("s", numbers(count, 100))
    assert service.before_commit is None
    assert texts(store) == [*left, *(str(number) for number in range(100, 100 + count))]
    assert store.count("s") == len(left) + count
    assert store.get_state("s") == ({"a": 1} if other == "put_state" else None)


@pytest.mark.parametrize("other", ["append", "clear", "replace", "put_state"])
def test_others_come_between_while_all_is_replaced(store, service, other):
    store.append("s", numbers(3))
    act = {
        "append": lambda: store.append("s", [HumanMessage("other")]),
        "clear": lambda: store.clear("s"),
        "replace": lambda: store.replace("s", numbers(9, 50)),
        "put_state": lambda: store.put_state("s", {"a": 1}),
    }[other]
    once(service, moves_head, act)
    store.replace("s", numbers(20, 100))
    assert texts(store) == [str(number) for number in range(100, 120)]
    assert store.get_state("s") == ({"a": 1} if other == "put_state" else None)
    store.clear("s")
    assert service.partitions == {}


def test_a_sweep_spares_what_another_writer_has_staged(store, service):
    store.append("s", numbers(3))
    other = FakeStore(service)
    place = []

    def sweep():
        # The body is there, its reference is not.
        drive(other.operations._sweep(service, "s"))
        place.append(True)

    once(service, lambda writes: any(write.sort.endswith("b") for write in writes), sweep)
    store.append("s", numbers(30, 3))
    assert place
    assert texts(store) == [str(number) for number in range(33)]


@pytest.mark.parametrize("count", [3, 50])
def test_a_reader_that_others_overtake(store, service, count):
    store.append("s", numbers(count))
    for act, seen in [
        (lambda: store.append("s", numbers(2, 500)), count),
        (lambda: store.replace("s", numbers(count + 1)), count + 1),
        (lambda: store.clear("s"), 0),
    ]:
        service.before_query = act
        assert len(texts(store)) == seen


def test_the_newest_of_a_large_batch_cost_what_they_are(store, service):
    for start in range(0, 5000, 1000):
        store.append("s", numbers(1000, start))
    service.read = 0
    assert texts(store, last=20) == [str(number) for number in range(4980, 5000)]
    assert texts(store, first=20) == [str(number) for number in range(20)]
    position = store.records("s", last=10)[0].position
    assert texts(store, after=position) == [str(number) for number in range(4991, 5000)]
    assert service.read < 80


def test_single_records_of_a_large_batch_are_deleted(store, service):
    ids = store.append("s", numbers(50))
    big = store.append("s", [HumanMessage("x" * 200_000), HumanMessage("50")])
    position = store.records("s", first=1)[0].position
    assert store.delete("s", [ids[0], ids[7], ids[49], big[0]]) == 4
    assert sum(sort.startswith("b") for sort in service.partitions["s"]) == 48
    left = [str(number) for number in range(51) if number not in (0, 7, 49)]
    assert texts(store) == left
    assert texts(store, after=position) == left
    for count in (1, 2, 10, 48, 60):
        assert texts(store, last=count) == left[-count:]
        assert texts(store, first=count) == left[:count]
    assert store.count("s") == len(left)
    assert store.delete("s", [big[1]]) == 1
    assert store.sessions()[0].last_at == store.records("s", last=1)[0].at


@pytest.mark.parametrize("seed", range(20))
def test_a_session_is_as_a_list_to_which_the_same_is_done(store, service, seed):
    Twins(store, seed).live(25)
    store.clear("s")
    assert service.partitions == {}


def test_everything_lives_as_long_as_its_session(service, monkeypatch):
    store = FakeStore(service, ttl=100)
    begin = time.time()
    store.append("s", numbers(8))
    store.put_state("s", {"a": 1})
    for passed in range(0, 400, 40):
        monkeypatch.setattr(partitions.time, "time", lambda passed=passed: begin + passed)
        store.append("s", [HumanMessage(str(passed))])
        ends = [expires for sort, (_, expires) in service.partitions["s"].items() if sort != HEAD]
        assert min(ends) >= begin + passed + 100
        assert service.partitions["s"][HEAD][1] >= begin + passed + 100
    assert store.count("s") == 18
    monkeypatch.setattr(partitions.time, "time", lambda: begin + 461)
    assert (texts(store), store.get_state("s"), store.sessions()) == ([], None, [])
    store.append("s", [HumanMessage("anew")])
    assert texts(store) == ["anew"]
    assert len(service.partitions["s"]) == 2


def test_a_session_that_others_keep_changing(store, service, monkeypatch):
    monkeypatch.setattr(tries, "LONGEST_PAUSE", 0)
    service.commit = lambda key, writes: False
    with pytest.raises(StoreError, match="gave up"):
        store.append("s", numbers(1))
    with pytest.raises(StoreError, match="gave up"):
        asyncio.run(store.aappend("s", numbers(1)))


def test_a_state_that_is_too_large(store):
    store.put_state("s", {"a": 1})
    with pytest.raises(RecordTooLargeError, match="30,000"):
        store.put_state("s", {"a": "x" * 40_000})
    assert store.get_state("s") == {"a": 1}


def test_a_state_alone_is_no_session_and_leaves_no_trace(store, service):
    store.put_state("s", {"a": 1})
    assert store.sessions() == []
    store.put_state("s", None)
    assert service.partitions == {}


def ends_of(service):
    return {sort: expires for sort, (_, expires) in service.partitions["s"].items()}


def at_time(monkeypatch, moment):
    monkeypatch.setattr(partitions.time, "time", lambda: moment)


def test_a_large_batch_lives_as_long_as_its_session_whoever_wrote_it(service, monkeypatch):
    begin = time.time()
    at_time(monkeypatch, begin)
    long, short = FakeStore(service, ttl=1000), FakeStore(service, ttl=10)
    long.append("s", numbers(1))
    short.append("s", numbers(50, 1))
    long.append("s", numbers(1, 51))
    assert min(ends_of(service).values()) >= begin + 1000


def test_a_large_batch_that_misses_that_all_is_put_off(service, monkeypatch):
    begin = time.time()
    at_time(monkeypatch, begin)
    store = FakeStore(service, ttl=100)
    store.append("s", numbers(1))

    def put_off():
        """Do what a writer does who looked for items before the batch was there."""
        text, expires = service.partitions["s"][HEAD]
        head = json.loads(text)
        service.partitions["s"][HEAD] = json.dumps({**head, "kept": begin + 360, "change": head["change"] + 1}), expires

    once(service, lambda writes: any(write.sort.endswith("b") for write in writes), put_off)
    store.append("s", numbers(50, 1))
    head = json.loads(service.partitions["s"][HEAD][0])
    referred = next(text for sort, (text, _) in service.partitions["s"].items() if sort.endswith("b")).split()[0]
    assert min(end for sort, end in ends_of(service).items() if sort.startswith(referred)) >= head["kept"]


def test_an_item_that_others_hold_is_put_off_later(service, monkeypatch):
    begin = time.time()
    at_time(monkeypatch, begin)
    store = FakeStore(service, ttl=100)
    store.append("s", numbers(1))
    at_time(monkeypatch, begin + 90)
    store.append("s", numbers(1, 1))
    at_time(monkeypatch, begin + 180)
    commit, refused = service.commit, []

    def conflict(key, writes):
        if not refused and len(writes) == 1:
            refused.append(writes[0].sort)
            return False
        return commit(key, writes)

    service.commit = conflict
    store.append("s", numbers(1, 2))
    assert refused
    assert min(ends_of(service).values()) >= begin + 180 + 100


def test_a_large_record_that_is_deleted_while_it_is_read(store, service, monkeypatch):
    ids = store.append("s", [HumanMessage("0"), HumanMessage("x" * 200_000), HumanMessage("2")])
    position = store.records("s", first=1)[0].position
    # The first query finds the batch, the second its records; that page ends behind the first part.
    delete = functools.partial(store.delete, "s", ids[1:2])
    query = FakeOperations._query

    async def paged(self, client, key, start, stop, **more):
        if start.startswith("b"):
            monkeypatch.setattr(FakeOperations, "_query", query)
            client.after_page = delete
        return await query(self, client, key, start, stop, **more)

    monkeypatch.setattr(FakeOperations, "_query", paged)
    assert texts(store, after=position) == ["2"]


def test_erase_takes_what_a_clear_left_that_was_stopped(store, service):
    store.append("@u/s", numbers(12))
    die_at(service, lambda writes: writes[0].sort != HEAD and writes[0].text is None)
    with pytest.raises(DiedError):
        store.clear("@u/s")
    assert service.partitions
    assert store.erase(user_id="u") == 1
    assert service.partitions == {}


def test_erase_takes_what_the_service_has_not_removed_yet(service):
    store = FakeStore(service, ttl=100)
    store.append("@u/s", numbers(2))
    # The session has expired and its head is gone; the records stay longer.
    del service.partitions["@u/s"][HEAD]
    store.erase(user_id="u")
    assert service.partitions == {}


def test_items_of_others_in_a_partition_are_left_alone(store, service):
    service.partitions["s"] = {"profile": ("theirs", None), "b-side": ("theirs", None)}
    store.append("s", numbers(20))
    store.replace("s", numbers(1))
    store.clear("s")
    assert service.partitions == {"s": {"profile": ("theirs", None), "b-side": ("theirs", None)}}
