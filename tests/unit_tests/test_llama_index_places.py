"""Places that LlamaIndex's own classes read too: what ours writes there is a message to both."""

import json

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from llama_index.core.base.llms.types import ChatMessage

from langchain_histories import MemoryStore, copy
from langchain_histories.codec import RecordFormat, Row
from langchain_histories.integrations.llama_index.chat_store import in_llama_index
from langchain_histories.testing.messages import comparable, golden_messages


@pytest.mark.parametrize("message", golden_messages(), ids=lambda message: message.type)
def test_what_is_written_is_a_message_of_llama_index_and_comes_back_equal(message):
    formatted = RecordFormat(in_llama_index=True)
    (record_id,), (text,) = formatted.encode([message])
    theirs = ChatMessage.model_validate(json.loads(text))
    if message.content and message.type != "remove":
        assert theirs.blocks or not message.text
    (record,) = formatted.decode([Row(text, "0")], "s")
    assert record.id == record_id
    assert comparable(record.message) == comparable(
        RecordFormat().decode_messages([Row(RecordFormat().encode([message])[1][0], "0")], "s")[0]
    )


def test_a_copy_elsewhere_is_in_langchains_form():
    source, store = in_llama_index(MemoryStore()), MemoryStore()
    source.append("s", [HumanMessage("hi", id="1"), AIMessage("ho", name="ann")])
    assert copy(source, store).records == 2
    rows = store.run("look", lambda client: store.operations.read(client, "s"))
    assert [json.loads(row.text)["type"] for row in rows] == ["human", "ai"]
    assert store.records("s") == source.records("s")
