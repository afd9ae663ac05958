"""What LlamaIndex's own simple store wrote comes into a store; the servers' forms are in the integration tests."""

import json

import pytest

pytest.importorskip("llama_index.core")

from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock, ToolCallBlock

from langchain_histories import (
    ConfigurationError,
    CorruptRecordError,
    FileFormatError,
    KafkaStore,
    MemoryStore,
    digest,
)
from langchain_histories.integrations.llama_index import LlamaIndexChatStore, aimport_llama_index, import_llama_index

MESSAGES = [
    ChatMessage("be kind", role="system"),
    ChatMessage(blocks=[TextBlock(text="look"), ImageBlock(image=b"AAAA", image_mimetype="image/png")]),
    ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_call_id="c", tool_name="f", tool_kwargs='{"x": 1}')]),
    ChatMessage("42", role="tool", additional_kwargs={"tool_call_id": "c"}),
    ChatMessage("be kind", role="system"),
]


@pytest.fixture
def theirs(tmp_path):
    path = tmp_path / "chat_store.json"
    write(path, {"a": MESSAGES, "b": MESSAGES[:1]})
    return path


def write(path, store):
    """As `SimpleChatStore.persist`, which pydantic 2.14 refuses to do."""
    messages = {key: [json.loads(it.model_dump_json()) for it in found] for key, found in store.items()}
    path.write_text(json.dumps({"store": messages, "class_name": "SimpleChatStore"}), encoding="utf-8")


async def test_a_file_of_a_simple_store(theirs):
    before = theirs.read_bytes()
    store = MemoryStore()
    report = import_llama_index(theirs, store)
    assert report.sessions == 2
    chat_store = LlamaIndexChatStore(store)
    assert chat_store.get_messages("a") == MESSAGES
    found = digest(store)
    import_llama_index(str(theirs), store)
    await aimport_llama_index(theirs, store)
    assert digest(store) == found
    assert theirs.read_bytes() == before
    write(theirs, {"a": [*MESSAGES, ChatMessage("more")], "b": []})
    import_llama_index(theirs, store, sessions=["a"])
    assert chat_store.get_messages("a") == [*MESSAGES, ChatMessage("more")]


def test_what_is_no_source(tmp_path):
    store = MemoryStore()
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(FileFormatError, match="SimpleChatStore"):
        import_llama_index(tmp_path / "x.json", store)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        import_llama_index(tmp_path / "none.json", store)
    with pytest.raises(ConfigurationError, match="copy"):
        import_llama_index(KafkaStore("kafka://127.0.0.1:1"), store)
    (tmp_path / "bad.json").write_text('{"store": {"a": [5]}}')
    with pytest.raises(CorruptRecordError):
        import_llama_index(tmp_path / "bad.json", store)
    assert import_llama_index(tmp_path / "bad.json", store, on_corrupt="skip").records == 0
    assert store.sessions() == []
