"""The Tablestore store without a service: its URL, environment, clients and the form of its rows."""

from __future__ import annotations

import inspect

import pytest
import tablestore
from hypothesis import given
from hypothesis import strategies as st

from langchain_histories import ConfigurationError, TablestoreChatMessageHistory, TablestoreStore, open_store
from langchain_histories.stores.tablestore import rows
from langchain_histories.stores.tablestore.connections import options_of_url

HOST = "shop.cn-hangzhou.ots.aliyuncs.com"
VARIABLES = ("TABLESTORE_ACCESS_KEY_", "ALIBABA_CLOUD_ACCESS_KEY_")


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for variable in VARIABLES:
        monkeypatch.delenv(variable + "ID", raising=False)
        monkeypatch.delenv(variable + "SECRET", raising=False)


def test_a_url_names_endpoint_instance_and_keys():
    options = options_of_url(f"tablestore://id:se%2Fcret@{HOST}/other?region=cn-hangzhou")
    assert options["end_point"] == f"https://{HOST}"
    assert (options["instance_name"], options["region"]) == ("other", "cn-hangzhou")
    assert (options["access_key_id"], options["access_key_secret"]) == ("id", "se/cret")
    options = options_of_url("tablestore+http://id:secret@127.0.0.1:8080/shop")
    assert (options["end_point"], options["instance_name"]) == ("http://127.0.0.1:8080", "shop")
    assert options_of_url(f"tablestore://{HOST}")["instance_name"] == "shop"


@pytest.mark.parametrize("url", ["tablestore://", "tablestore:///shop", f"tablestore://{HOST}/shop?tabel=x"])
def test_bad_urls(url):
    with pytest.raises(ConfigurationError, match="Tablestore URL"):
        TablestoreStore(url)


@pytest.mark.parametrize("secret", ["wrong/Secret7", "7/wrong", "7?wrong"])
def test_a_bad_url_tells_no_secret(secret):
    with pytest.raises(ConfigurationError, match="URL") as caught:
        TablestoreStore(f"tablestore://id:{secret}@{HOST}")
    assert "wrong" not in f"{caught.value}"
    assert caught.value.__cause__ is None


def test_keys_of_the_environment(monkeypatch):
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_ID", "cloud-id")
    monkeypatch.setenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "cloud-secret")
    monkeypatch.setenv("ALIBABA_CLOUD_SECURITY_TOKEN", "cloud-token")
    options = options_of_url(f"tablestore://{HOST}")
    assert (options["access_key_id"], options["access_key_secret"]) == ("cloud-id", "cloud-secret")
    assert options["sts_token"] == "cloud-token"
    monkeypatch.setenv("TABLESTORE_ACCESS_KEY_ID", "own-id")
    monkeypatch.setenv("TABLESTORE_ACCESS_KEY_SECRET", "own-secret")
    options = options_of_url(f"tablestore://{HOST}")
    assert (options["access_key_id"], options.get("sts_token")) == ("own-id", None)
    assert options_of_url(f"tablestore://a:b@{HOST}")["access_key_id"] == "a"


def test_no_keys_at_all():
    with pytest.raises(ConfigurationError, match="TABLESTORE_ACCESS_KEY_ID"):
        TablestoreStore(f"tablestore://{HOST}")
    TablestoreStore(f"tablestore://{HOST}", client_options={"credentials_provider": object()})


def test_options_reach_the_client():
    policy = tablestore.WriteRetryPolicy()
    options = {"socket_timeout": 5, "max_connection": 7, "retry_policy": policy}
    with TablestoreStore(f"tablestore://id:secret@{HOST}", client_options=options) as store:
        assert (store.client.socket_timeout, store.client.max_connection) == (5, 7)
        assert store.client.retry_policy is policy


def test_other_keys_of_the_environment_are_another_place(monkeypatch):
    monkeypatch.setenv("TABLESTORE_ACCESS_KEY_SECRET", "secret")
    monkeypatch.setenv("TABLESTORE_ACCESS_KEY_ID", "one")
    one, same = TablestoreStore(f"tablestore://{HOST}"), TablestoreStore(f"tablestore://{HOST}", table_name="t")
    monkeypatch.setenv("TABLESTORE_ACCESS_KEY_ID", "two")
    other = TablestoreStore(f"tablestore://{HOST}")
    assert one.client is same.client is not other.client
    assert one.operations.found is not same.operations.found


def test_no_secret_in_a_repr():
    store = open_store(f"tablestore://id:wrong-Secret7@{HOST}/shop")
    history = TablestoreChatMessageHistory("s", None, f"https://{HOST}", None, "id", "wrong-Secret7")
    assert "wrong-Secret7" not in f"{store!r} {history!r} {history.store!r}"
    assert HOST in repr(history.store)


def test_what_is_no_client():
    client = tablestore.OTSClient(f"https://{HOST}", "id", "secret", "shop")
    with pytest.raises(ConfigurationError, match=r"async client must be .* tablestore, not tablestore.*\.OTSClient"):
        TablestoreStore(async_client=client)
    with pytest.raises(ConfigurationError, match="not both"):
        TablestoreStore(f"tablestore://{HOST}", client=client)
    with pytest.raises(ConfigurationError, match="clients of your own"):
        TablestoreStore()
    with pytest.raises(ConfigurationError, match="endpoint"):
        TablestoreChatMessageHistory("s", endpoint=HOST)


def test_arguments_are_llama_indexs_in_their_order():
    theirs = pytest.importorskip("llama_index.storage.chat_store.tablestore").TablestoreChatStore
    expected = list(inspect.signature(theirs.__init__).parameters)[1:-1]
    assert list(inspect.signature(TablestoreChatMessageHistory).parameters)[1 : len(expected) + 1] == expected


@given(st.lists(st.text(), max_size=30))
def test_any_batch_is_packed_within_the_limits_and_read_back(texts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "_CELL_CHARACTERS", 3)
        patch.setattr(rows, "_ROW_CELLS", 4)
        patch.setattr(rows, "ROW_BYTES", 40)
        packed = rows.pack(texts)
    assert all(len(cells) <= 4 for cells in packed)
    assert all(sum(len(name) + len(cell.encode()) for name, cell in cells) <= 40 for cells in packed)
    columns = {name: cell for cells in packed for name, cell in cells}
    assert [text for _, text in sorted(rows.texts_of(columns).items())] == texts
