"""The Tablestore store on a stand-in that the SDK's own clients talk to."""

from __future__ import annotations

import asyncio
import functools
import logging
import uuid

import pytest
import tablestore
from behind import Quiet
from langchain_core.messages import AIMessage, HumanMessage
from servers import BUSY, ODD_PASSWORD, ODD_USER, WRONG_PASSWORD
from tablestore import INF_MAX, INF_MIN, PK_AUTO_INCR, Direction, OTSServiceError

from langchain_histories import (
    Capability,
    ConfigurationError,
    RecordTooLargeError,
    StoreError,
    StoreUnavailableError,
    TablestoreChatMessageHistory,
    TablestoreStore,
    TranscriptChangedError,
    open_history,
)
from langchain_histories.stores.tablestore import rows as layout
from langchain_histories.stores.tablestore.operations import TablestoreOperations
from langchain_histories.testing import MessageStoreTests


@pytest.fixture
def table():
    return f"t{uuid.uuid4().hex}"


@pytest.fixture
def store(tablestore_server, table):
    with TablestoreStore(tablestore_server.url, table_name=table) as store:
        yield store


class TestTablestoreStore(MessageStoreTests):
    capabilities = ~(Capability.TTL | Capability.NEWEST)

    @pytest.fixture
    def open_store(self, tablestore_server, table):
        return functools.partial(TablestoreStore, tablestore_server.url, table_name=table, timeout=BUSY)

    @pytest.fixture
    def unreachable_store(self):
        return TablestoreStore("tablestore+http://id:secret@127.0.0.1:1/histories")

    @pytest.fixture
    def wrong_password_store(self, tablestore_server):
        return TablestoreStore(tablestore_server.url_with(password=WRONG_PASSWORD))

    @pytest.fixture
    def server(self, tablestore_server):
        return tablestore_server

    @pytest.fixture
    def quiet_server(self, tablestore_server):
        with Quiet("tablestore", tablestore_server) as server:
            yield server

    def traces(self, store):
        return sorted(repr((row.primary_key, names(row))) for table in (0, 1) for row in rows_of(store, table))

    def places(self, store):
        return sorted(name for name in store.client.list_table() if name.startswith(store.table_name))

    def foreign_rows(self, store, session_id):
        columns = [[("n", 1), ("m0", value)] for value in (5, 0.5, True, bytearray(b"\xff"), "")]
        columns += [[("n", 2), ("m0_0", 5), ("m0_1", "x"), ("m1", "")], [("n", 1), ("mx", "x"), ("m0", "y")]]
        columns += [[("n", 1), ("m0", "x"), ("parts", value)] for value in (5, "x y", "99")]

        def leave(columns):
            row = tablestore.Row([("session_id", session_id), ("seq", PK_AUTO_INCR)], columns)
            store.client.put_row(store.table_name, row)

        return [functools.partial(leave, each) for each in columns]

    def broken_sessions(self, store, session_id):
        def leave(table, key, columns):
            store.client.put_row(table, tablestore.Row([("session_id", session_id), key], columns))

        state, rows = (store.table_name + "_state", ("name", "state")), (store.table_name, ("seq", PK_AUTO_INCR))
        broken = [(*state, [("hash", 5), ("m0", value)]) for value in (5, bytearray(b"\xff"), 0.5, "x")]
        broken += [(store.table_name + "_state", ("name", "replaced"), [("to", value)]) for value in ("x", 0.5, True)]
        broken += [(*rows, [("n", value), ("m0", "x")]) for value in ("x", 0.5, bytearray(b"\xff"), -5)]
        return [functools.partial(leave, *each) for each in broken]


def rows_of(store, table=0):
    """All rows of the table of messages, or of that of states."""
    name, second = ((store.table_name, "seq"), (store.table_name + "_state", "name"))[table]
    at, high = ([("session_id", bound), (second, bound)] for bound in (INF_MIN, INF_MAX))
    found = []
    while at:
        _, at, rows, _ = store.client.get_range(name, Direction.FORWARD, at, high)
        found += rows
    return found


def names(row):
    return [name for name, _, _ in row.attribute_columns]


def client_of(server, kind=tablestore.OTSClient, **options):
    return kind(f"http://{server.host}:{server.port}", "histories", "histories-password", "histories", **options)


def texts(messages):
    return [str(message.content) for message in messages]


def test_the_stored_shape(store):
    store.append("s", [HumanMessage("é"), AIMessage("2")])
    (row,) = rows_of(store)
    assert [name for name, _ in row.primary_key] == ["session_id", "seq"]
    columns = {name: value for name, value, _ in row.attribute_columns}
    assert list(columns) == ["m0", "m1", "n"]
    assert columns["n"] == 2
    assert '"é"' in columns["m0"]
    assert store.records("s")[1].position == f"{row.primary_key[1][1]}-1"


def test_a_batch_over_the_limits_of_a_row_is_all_or_nothing(store, tablestore_server):
    many = [HumanMessage(str(number)) for number in range(2500)]
    large = [HumanMessage("é" * 3_000_000), AIMessage("small"), HumanMessage("👍" * 800_000)]
    store.append("s", [HumanMessage("before")])
    store.append("s", many)
    store.append("s", large)
    store.append("s", [HumanMessage("after")])
    stored = store.read("s")
    assert texts(stored) == texts([HumanMessage("before"), *many, *large, HumanMessage("after")])
    assert store.count("s") == 2505
    assert asyncio.run(store.aread("s", last=3)) == stored[-3:]
    assert store.read("s", first=2) == stored[:2]
    assert store.read("s", after=store.records("s", first=2500)[-1].position, first=3) == stored[2500:2503]
    # Its last row is refused: what was written of it before is not seen.
    assert len([row for row in rows_of(store) if "parts" in names(row)]) == 2
    rows = len(rows_of(store))
    put_row, calls = tablestore.OTSClient.put_row, []

    def put_two(*args, **options):
        calls.append(args)
        if len(calls) == 3:
            raise OTSServiceError(503, "OTSServerUnavailable", "")
        return put_row(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tablestore.OTSClient, "put_row", put_two)
        with pytest.raises(StoreUnavailableError):
            store.append("s", many)
    assert len(rows_of(store)) == rows + 2
    assert store.read("s") == stored
    assert store.count("s") == 2505
    assert store.sessions()[0].count == 2505
    store.clear("s")
    assert rows_of(store) == rows_of(store, 1) == []


def test_deletion_in_a_batch_of_several_rows(store):
    ids = store.append("s", [HumanMessage("x" * 3_000_000), HumanMessage("y" * 3_000_000), AIMessage("z")])
    assert store.delete("s", [ids[0]]) == 1
    assert store.delete("s", [ids[0]]) == 0
    assert [text[0] for text in texts(store.read("s"))] == ["y", "z"]
    assert store.count("s") == 2
    assert not [name for row in rows_of(store) for name in names(row) if name.startswith("m0")]
    assert store.delete("s", ids) == 2
    assert rows_of(store) == []


@pytest.mark.parametrize("face", ["sync", "async"])
def test_a_deletion_while_the_rows_of_a_batch_are_read(tablestore_server, store, monkeypatch, face):
    """What is read in several requests is whole: here a message goes between the first and the second."""
    kind = {"sync": tablestore.OTSClient, "async": tablestore.AsyncOTSClient}[face]
    monkeypatch.setattr(layout, "_CELL_CHARACTERS", 1000)
    monkeypatch.setattr(layout, "ROW_BYTES", 2500)
    ids = store.append("s", [HumanMessage("x" * 6000), AIMessage("z")])
    get_row, calls = kind.get_row, []

    def get_and_delete(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            with TablestoreStore(tablestore_server.url, table_name=store.table_name) as other:
                assert other.delete("s", [ids[0]]) == 1
        return get_row(*args, **options)

    assert len(rows_of(store)) == 3  # the first two are named in the last one
    monkeypatch.setattr(kind, "get_row", get_and_delete)
    read = store.read("s") if face == "sync" else asyncio.run(store.aread("s"))
    assert texts(read) == ["z"]


def test_two_deletions_of_one_message_count_once(store):
    store.append("s", [HumanMessage("0"), HumanMessage("1"), HumanMessage("2")])
    (row, *_) = store.records("s")
    from langchain_histories._neutral import drive
    from langchain_histories.codec import Row

    rows = drive(store.operations.read(store.client, "s"))
    assert isinstance(rows[0], Row)
    assert drive(store.operations.delete(store.client, "s", [rows[0]])) == 1
    assert drive(store.operations.delete(store.client, "s", [rows[0]])) == 0
    assert store.count("s") == 2
    assert row.id not in [record.id for record in store.records("s")]


def test_paging_over_the_rows_of_one_answer(store):
    row = '{"type": "human", "data": {"content": "x", "type": "human"}}'
    client = store.client
    store.setup()
    for start in range(0, 5200, 200):
        request = tablestore.BatchWriteRowRequest()
        items = [
            tablestore.PutRowItem(
                tablestore.Row([("session_id", "s"), ("seq", PK_AUTO_INCR)], [("n", 1), ("m0", row)]),
                tablestore.Condition("IGNORE"),
            )
            for _ in range(200)
        ]
        request.add(tablestore.TableInBatchWriteRowItem(store.table_name, items))
        assert client.batch_write_row(request).is_all_succeed(), start
    store.append("t", [HumanMessage("other")])
    assert len(store.read("s")) == store.count("s") == 5200
    assert len(asyncio.run(store.aread("s", last=5100))) == 5100
    assert [(info.session_id, info.count) for info in store.sessions()] == [("s", 5200), ("t", 1)]
    store.clear("s")
    assert store.count("s") == 0
    assert store.count("t") == 1


def test_a_part_of_a_session_that_is_being_replaced(store):
    """A replacement that died before it removed the old rows: every kind of read shows the new ones."""
    for number in range(6):
        store.append("s", [HumanMessage(f"old {number}")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TablestoreOperations, "_remove", None)
        with pytest.raises(TypeError):
            store.replace("s", [HumanMessage("new 0"), AIMessage("new 1")])
    assert len(rows_of(store)) == 7
    assert texts(store.read("s")) == ["new 0", "new 1"]
    assert texts(store.read("s", first=1)) == ["new 0"]
    assert texts(store.read("s", last=5)) == ["new 0", "new 1"]
    assert store.count("s") == 2
    assert [info.count for info in store.sessions()] == [2]


def test_the_drivers_retries_at_throttling(store, tablestore_server):
    store.append("s", [HumanMessage("0")])
    tablestore_server.fail("PutRow", "OTSServerBusy", 503, times=2)
    store.append("s", [HumanMessage("1")])
    tablestore_server.fail("GetRange", "OTSServerBusy", 503, times=1)
    assert texts(asyncio.run(store.aread("s"))) == ["0", "1"]


def test_throttling_is_never_an_empty_history(tablestore_server, table):
    from tablestore.retry import NoRetryPolicy

    options = {"retry_policy": NoRetryPolicy()}
    with TablestoreStore(tablestore_server.url, table_name=table, client_options=options) as store:
        store.append("s", [HumanMessage("0")])
        for api, call in {"GetRange": store.read, "PutRow": lambda key: store.append(key, [HumanMessage("1")])}.items():
            tablestore_server.fail(api, "OTSServerBusy", 503)
            with pytest.raises(StoreUnavailableError) as caught:
                call("s")
            assert isinstance(caught.value.__cause__, OTSServiceError)
        tablestore_server.fail("GetRange", "OTSParameterInvalid", 400)
        with pytest.raises(StoreError) as caught:
            store.read("s")
        assert not isinstance(caught.value, StoreUnavailableError)
        assert texts(store.read("s")) == ["0"]


def test_an_answer_that_was_lost(tablestore_server, table):
    """A policy that also retries writes stores a batch twice; it is read once."""
    options = {"retry_policy": tablestore.WriteRetryPolicy()}
    with TablestoreStore(tablestore_server.url, table_name=table, client_options=options) as store:
        store.setup()
        tablestore_server.fail("PutRow", "OTSTimeout", 503, after=True)
        store.append("s", [HumanMessage("0"), AIMessage("1")])
        assert len(rows_of(store)) == 2
        assert texts(store.read("s")) == ["0", "1"]


def test_a_user_who_may_only_read_and_write_rows(store, tablestore_server, table):
    store.append("s", [HumanMessage("0")])
    with TablestoreStore(tablestore_server.rows_url, table_name=table) as rows_only:
        rows_only.append("s", [HumanMessage("1")])
        assert texts(rows_only.read("s")) == ["0", "1"]
    with TablestoreStore(tablestore_server.rows_url, table_name=table + "x") as missing, pytest.raises(StoreError):
        missing.read("s")


def test_signature_version_4(store, tablestore_server, table):
    store.append("s", [HumanMessage("0")])
    with TablestoreStore(tablestore_server.url + "?region=cn-hangzhou", table_name=table) as signed:
        assert texts(signed.read("s")) == texts(asyncio.run(signed.aread("s"))) == ["0"]


def test_clients_of_the_callers_own(tablestore_server, table):
    client = client_of(tablestore_server)
    store = TablestoreStore(client=client, table_name=table)
    assert Capability.NATIVE_ASYNC not in store.capabilities
    assert store.client is client
    store.append("s", [HumanMessage("0")])
    assert texts(asyncio.run(store.aread("s"))) == ["0"]
    store.close()
    assert client.list_table()

    async def main():
        async with client_of(tablestore_server, tablestore.AsyncOTSClient) as async_client:
            other = TablestoreStore(async_client=async_client, table_name=table)
            await other.aappend("s", [HumanMessage("1")])
            await other.aclose()
            with pytest.raises(ConfigurationError, match="async client alone"):
                other.read("s")
            both = TablestoreStore(client=client, async_client=async_client, table_name=table)
            assert Capability.NATIVE_ASYNC in both.capabilities
            return both.read("s"), await both.aread("s")

    sync, native = asyncio.run(main())
    assert texts(sync) == texts(native) == ["0", "1"]


def test_llama_indexs_table_is_refused_and_left_alone(tablestore_server, table):
    """Its table has one row a session, which is read, changed and written as a whole."""
    chat_store = pytest.importorskip("llama_index.storage.chat_store.tablestore")
    from llama_index.core.llms import ChatMessage

    client = client_of(tablestore_server)
    theirs = chat_store.TablestoreChatStore(client, table_name=table)
    theirs.create_table_if_not_exist()
    theirs.add_message("s", ChatMessage(role="user", content="theirs"))
    ours = TablestoreChatMessageHistory("s", client, table_name=table)
    with pytest.raises(ConfigurationError, match="primary key"):
        ours.add_user_message("ours")
    assert [message.content for message in theirs.get_messages("s")] == ["theirs"]
    assert client.list_table().count(f"{table}_state") == 0


def test_twenty_at_once_lose_nothing(store):
    """LlamaIndex's class reads, changes and writes the session as a whole, and loses most of these."""

    async def main():
        await asyncio.gather(*(store.aappend("s", [HumanMessage(str(number))]) for number in range(20)))
        return await store.aread("s")

    assert sorted(map(int, texts(asyncio.run(main())))) == list(range(20))


def test_a_state_that_is_too_large(store):
    store.put_state("s", {"big": "x" * 3_000_000})
    assert store.get_state("s") == {"big": "x" * 3_000_000}
    with pytest.raises(RecordTooLargeError, match="'s'"):
        store.put_state("s", {"big": "x" * 5_000_000})
    assert len(store.get_state("s")["big"]) == 3_000_000


def test_the_drop_in_class(tablestore_server, table):
    endpoint = f"http://{tablestore_server.host}:{tablestore_server.port}"
    arguments = (None, endpoint, "histories", "histories", "histories-password", table)
    one, other = (TablestoreChatMessageHistory(name, *arguments) for name in "ab")
    assert one.store.client is other.store.client
    one.add_user_message("x")
    url = open_history(tablestore_server.url, "a", table_name=table)
    assert texts(url.messages) == texts(asyncio.run(one.aget_messages())) == ["x"]
    assert other.messages == []
    assert "histories-password" not in f"{one!r} {one.store!r} {url!r}"


def test_an_odd_secret(tablestore_server, table):
    url = tablestore_server.url_with(user=ODD_USER, password=ODD_PASSWORD)
    history = open_history(url, "a", table_name=table)
    history.add_user_message("x")
    assert texts(asyncio.run(history.aget_messages())) == ["x"]
    assert "Secret7" not in f"{history!r} {history.store!r}"


def test_nothing_of_a_message_or_a_key_is_logged(store, tablestore_server, caplog):
    with caplog.at_level(logging.DEBUG):
        store.append("s", [HumanMessage("a private text")])
        store.update_state("s", lambda _: {"n": "a private state"})
        store.read("s")
        tablestore_server.fail("PutRow", "OTSParameterInvalid", 400)
        with pytest.raises(StoreError) as caught:
            store.append("s", [HumanMessage("a private text")])
    told = f"{caplog.text} {caught.value} {caught.value.__cause__}"
    assert "private" not in told
    assert "histories-password" not in told
    assert "x-ots-" not in told


def before(operations, name, act):
    """Do something once, before an operation goes on with this step."""
    step = getattr(operations, name)

    def acting(*args, **options):
        setattr(operations, name, step)
        act()
        return step(*args, **options)

    setattr(operations, name, acting)


@pytest.fixture
def other(tablestore_server, table):
    with TablestoreStore(tablestore_server.url, table_name=table) as store:
        yield store


@pytest.mark.parametrize(
    ("act", "left"),
    {
        "append": (lambda other, _: other.append("s", [HumanMessage("x")]), "new a b c x"),
        "delete": (lambda other, ids: other.delete("s", [ids[1]]), "new a c"),
        "take": (lambda other, _: other.take("s"), "new a b"),
        "edit": (lambda other, _: other.insert("s", 1, [HumanMessage("x")]), "new a x b c"),
        "replace": (lambda other, _: other.replace("s", [HumanMessage("x")]), "new x"),
        "clear": (lambda other, _: other.clear("s"), "new"),
    }.values(),
)
def test_what_comes_between_the_look_of_an_edit_and_its_end(store, other, act, left):
    store.append("s", [HumanMessage("a")])
    store.append("s", [HumanMessage("b"), HumanMessage("c")])
    ids = [record.id for record in store.records("s")]
    before(store.operations, "_show", lambda: act(other, ids))
    store.insert("s", 0, [HumanMessage("new")])
    for reader in (store, other):
        assert " ".join(texts(reader.read("s"))) == left
        assert " ".join(texts(reader.read("s", first=9))) == left
        assert " ".join(texts(reader.read("s", last=9))) == left
        assert reader.count("s") == len(left.split())
    store.clear("s")
    assert rows_of(store) == rows_of(store, 1) == []


@pytest.mark.parametrize("step", ["_append", "_superseded", "_show", "_remove_numbers"])
@pytest.mark.parametrize("is_taken", [False, True])
def test_a_message_is_deleted_while_another_one_is_edited(store, other, step, is_taken):
    """It goes once, and nothing else goes, whatever the edit has done by then."""
    store.append("s", [HumanMessage("a"), HumanMessage("b")])
    ids = [record.id for record in store.records("s")]
    removed = []
    before(
        store.operations,
        step,
        lambda: removed.append(other.take("s", 0).id if is_taken else other.delete("s", [ids[0]])),
    )
    store.edit_message("s", ids[1], HumanMessage("new"))
    assert removed == [ids[0] if is_taken else 1]
    assert texts(other.read("s")) == ["new"]


@pytest.mark.parametrize("is_taken", [False, True])
def test_a_message_is_edited_while_another_one_is_deleted(store, other, is_taken):
    store.append("s", [HumanMessage("a"), HumanMessage("b")])
    ids = [record.id for record in store.records("s")]
    before(store.operations, "_delete_one", lambda: other.edit_message("s", ids[1], HumanMessage("new")))
    removed = store.take("s", 0).id if is_taken else store.delete("s", [ids[0]])
    assert removed == (ids[0] if is_taken else 1)
    assert texts(other.read("s")) == ["new"]


def test_an_append_behind_a_record_rewrites_nothing(store, other):
    (first,) = store.append("s", [HumanMessage("a")])
    (row,) = rows_of(store)
    last = store.append("s", [HumanMessage("b"), HumanMessage("c")], after=first)[-1]
    assert rows_of(store)[0].primary_key == row.primary_key
    assert len(rows_of(store)) == 2
    before(store.operations, "_show", lambda: other.delete("s", [last]))
    with pytest.raises(TranscriptChangedError):
        store.append("s", [HumanMessage("d")], after=last)
    before(store.operations, "_append", lambda: other.append("s", [HumanMessage("x")]))
    with pytest.raises(TranscriptChangedError):
        store.append("s", [HumanMessage("d")], after=store.records("s")[-1].id)
    assert texts(other.read("s")) == ["a", "b", "x"]
    assert store.delete("s", [record.id for record in store.records("s")]) == 3
    assert rows_of(store) == []


def test_what_an_edit_that_was_stopped_leaves_is_never_seen(store, other):
    class StoppedError(Exception):
        pass

    def stop():
        raise StoppedError

    ids = store.append("s", [HumanMessage("a"), HumanMessage("b")])
    for _ in range(2):
        before(store.operations, "_show", stop)
        with pytest.raises(StoppedError):
            store.edit_message("s", ids[0], HumanMessage("new"))
    assert texts(other.read("s")) == ["a", "b"]
    assert other.count("s") == 2
    other.append("s", [HumanMessage("c")])
    other.edit_message("s", ids[0], HumanMessage("other"))
    assert texts(store.read("s")) == ["other", "b", "c"]
    assert len(rows_of(store)) == 1
