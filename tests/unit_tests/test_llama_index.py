"""Every store as a chat store of LlamaIndex, on the stores that need no server."""

import copy
import functools
import json
import pickle
import subprocess
import sys

import pytest
from langchain_core.messages import AIMessage, HumanMessage

pytest.importorskip("llama_index.core")

from fsspec.implementations.local import LocalFileSystem
from llama_index.core.base.llms.types import ChatMessage, ImageBlock
from llama_index.core.memory import ChatMemoryBuffer

from langchain_histories import (
    Capability,
    ConfigurationError,
    FileFormatError,
    FileStore,
    HistoryRegistry,
    InvalidMessageError,
    MemoryStore,
    SQLStore,
)
from langchain_histories.integrations.llama_index import LlamaIndexChatStore
from langchain_histories.testing.chat_stores import ChatStoreTests


class TestMemoryChatStore(ChatStoreTests):
    capabilities = MemoryStore().capabilities

    @pytest.fixture
    def open_store(self):
        store = MemoryStore()
        return lambda: store


class TestFileChatStore(ChatStoreTests):
    capabilities = FileStore("file:///tmp").capabilities

    @pytest.fixture
    def open_store(self, tmp_path):
        return functools.partial(FileStore, f"file://{tmp_path}/chats")


class TestSQLiteChatStore(ChatStoreTests):
    capabilities = SQLStore("sqlite://").capabilities

    @pytest.fixture
    def open_store(self, tmp_path):
        return functools.partial(SQLStore, f"sqlite:///{tmp_path}/chats.db")


def test_the_package_loads_nothing_of_llama_index():
    code = "import sys, langchain_histories, langchain_histories.codec; langchain_histories.SQLStore; "
    code += "print([name for name in sys.modules if name.startswith('llama_index')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_chat_store_of_a_url_of_a_store_or_of_a_registry(tmp_path):
    url = f"sqlite:///{tmp_path}/chats.db"
    registry = HistoryRegistry.from_config(
        {"default": "a", "histories": {"a": {"url": "memory://"}, "b": {"url": url}}}
    )
    by_url, by_name = LlamaIndexChatStore(url), LlamaIndexChatStore("b", registry=registry)
    by_url.add_message("s", ChatMessage("hi"))
    assert (
        by_name.get_messages("s") == LlamaIndexChatStore(registry.store("b")).get_messages("s") == [ChatMessage("hi")]
    )
    with pytest.raises(ConfigurationError, match="'c'"):
        LlamaIndexChatStore("c", registry=registry)
    for wrong in (7, None):
        with pytest.raises(ConfigurationError):
            LlamaIndexChatStore(wrong)
    with pytest.raises(ConfigurationError):
        LlamaIndexChatStore(MemoryStore(), ttl=3)
    for key in ("", "x" * 2000):
        with pytest.raises(ConfigurationError):
            by_url.add_message(key, ChatMessage("hi"))


def test_what_a_memory_writes_has_no_secret_and_finds_the_store_again(tmp_path, monkeypatch):
    store = LlamaIndexChatStore("redis://:s3cret@127.0.0.1:1/0")
    memory = ChatMemoryBuffer.from_defaults(token_limit=3000, chat_store=store)
    written = memory.to_string()
    for text in (written, repr(store), str(store), pickle.dumps(store).decode("latin-1"), repr(memory)):
        assert "s3cret" not in text
    assert ChatMemoryBuffer.from_string(written).chat_store.message_store is store.message_store
    assert pickle.loads(pickle.dumps(store)).message_store is copy.deepcopy(store).message_store is store.message_store
    assert (
        json.loads(ChatMemoryBuffer.from_string(written).to_string())["chat_store"] == json.loads(written)["chat_store"]
    )
    elsewhere = written.replace(json.loads(written)["chat_store"]["store"], "elsewhere")
    with pytest.raises(ConfigurationError, match="chat_store="):
        ChatMemoryBuffer.from_string(elsewhere)
    monkeypatch.setenv("CHATS", f"sqlite:///{tmp_path}/chats.db")
    named = LlamaIndexChatStore("${CHATS}")
    named.add_message("chat_history", ChatMessage("hi"))
    text = ChatMemoryBuffer.from_defaults(token_limit=3000, chat_store=named).to_string()
    text = text.replace(json.loads(text)["chat_store"]["store"], "elsewhere")
    assert "${CHATS}" in text
    assert ChatMemoryBuffer.from_string(text).get_all() == [ChatMessage("hi")]


class FullDisk(LocalFileSystem):
    def open(self, *args, **options):
        file = super().open(*args, **options)
        file.write = lambda text: (_ for _ in ()).throw(OSError("no space"))
        return file


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path):
    path = tmp_path / "chats.json"
    store = LlamaIndexChatStore()
    store.add_message("s", ChatMessage("hi"))
    store.persist(str(path))
    before = path.read_bytes()
    with pytest.raises(OSError, match="no space"):
        store.persist(str(path), fs=FullDisk())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"store": {"s": [{"type": "human"}]}}', '{"store": 5}'])
def test_a_file_of_another_form(text):
    with pytest.raises(FileFormatError, match="Nothing was stored"):
        LlamaIndexChatStore.parse_raw(text)


def test_a_conversation_of_both_frameworks():
    """Begun by LangChain, continued by LlamaIndex, and back."""
    store = MemoryStore()
    history, chat_store = store.history("s"), LlamaIndexChatStore(store)
    history.add_messages([HumanMessage("hi", id="1"), AIMessage("ho", id="2")])
    messages = chat_store.get_messages("s")
    assert [(it.role.value, it.content) for it in messages] == [("user", "hi"), ("assistant", "ho")]
    chat_store.add_message("s", ChatMessage(blocks=[ImageBlock(url="https://e.com/a.png", detail="low")]))
    assert history.messages[2].content == [{"type": "image", "url": "https://e.com/a.png", "mime_type": "image/png"}]
    chat_store.set_messages("s", chat_store.get_messages("s"))
    assert [it.id for it in history.messages] == ["1", "2", None]
    copied = pickle.loads(pickle.dumps(copy.deepcopy(messages)))
    assert copied == messages
    other = LlamaIndexChatStore()
    other.set_messages("s", copied)
    assert other.message_store.read("s") == [HumanMessage("hi", id="1"), AIMessage("ho", id="2")]


def test_odd_values_in_a_message_are_kept_or_refused():
    store = LlamaIndexChatStore()
    message = ChatMessage("a", additional_kwargs={"raw": b"\xff", "images": [], "n": float("inf")})
    store.add_message("s", message)
    assert store.get_messages("s") == [message]
    assert Capability.EDIT in store.message_store.capabilities
    broken = ChatMessage("a")
    broken.blocks = [5]
    with pytest.raises(InvalidMessageError):
        store.add_message("s", broken)
    assert store.message_store.count("s") == 1
