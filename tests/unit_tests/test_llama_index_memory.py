"""LlamaIndex's `Memory` over stores: what is archived stays in the transcript, and nobody archives what he has not read."""

import asyncio
import json
import pickle
import subprocess
import sys

import pytest

pytest.importorskip("llama_index.core")

from langchain_core.messages import AIMessage, HumanMessage
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import Memory
from llama_index.core.storage.chat_store.base_db import MessageStatus

from langchain_histories import FileStore, KafkaStore, MemoryStore, SQLStore, UnsupportedOperationError
from langchain_histories.integrations.llama_index import LlamaIndexMemoryStore

ACTIVE, ARCHIVED = MessageStatus.ACTIVE, MessageStatus.ARCHIVED


@pytest.fixture(params=["memory", "file", "sqlite"])
def store(request, tmp_path):
    if request.param == "memory":
        return MemoryStore()
    if request.param == "file":
        return FileStore(f"file://{tmp_path}/chats")
    return SQLStore(f"sqlite:///{tmp_path}/chats.db")


@pytest.fixture
def memories(store):
    return LlamaIndexMemoryStore(store)


def messages(*texts):
    return [ChatMessage(text) for text in texts]


async def contents(memories, status=ACTIVE, **page):
    return [it.content for it in await memories.get_messages("s", status=status, **page)]


async def test_archived_messages_stay_in_the_transcript(memories):
    await memories.add_messages("s", messages(*"abcdef"))
    assert [it.content for it in await memories.archive_oldest_messages("s", 2)] == ["a", "b"]
    assert await contents(memories) == list("cdef")
    assert await contents(memories, ARCHIVED) == ["a", "b"]
    assert await contents(memories, None) == list("abcdef")
    assert await contents(memories, limit=2, offset=1) == ["d", "e"]
    assert [await memories.count_messages("s", status=it) for it in (ACTIVE, ARCHIVED, None)] == [4, 2, 6]
    assert [it.content for it in await memories.message_store.aread("s")] == list("abcdef")
    await memories.add_message("s", ChatMessage("x"), status=ARCHIVED)
    await memories.add_message("s", ChatMessage("g"))
    assert await contents(memories, ARCHIVED) == ["a", "b", "x"]
    assert await contents(memories) == list("cdefg")
    assert (await memories.delete_message("s", 1)).content == "d"
    assert (await memories.delete_message("s", -1)).content == "g"
    assert await memories.delete_message("s", 9) is None
    assert [it.content for it in await memories.delete_oldest_messages("s", 2)] == ["c", "e"]
    assert await memories.get_keys() == ["s"]
    await memories.delete_messages("s", status=ARCHIVED)
    assert await contents(memories, None) == ["f"]
    await memories.set_messages("s", messages("1", "2"), status=ARCHIVED)
    await memories.add_message("s", ChatMessage("3"))
    await memories.delete_messages("s", status=ACTIVE)
    assert (await contents(memories), await contents(memories, ARCHIVED)) == ([], ["1", "2"])
    await memories.set_messages("s", messages("new"))
    assert (await contents(memories), await contents(memories, ARCHIVED)) == (["new"], [])
    await memories.archive_oldest_messages("s", 1)
    await memories.delete_messages("s")
    assert await memories.get_keys() == []
    assert await memories.message_store.aget_state("s") is None
    assert await memories.archive_oldest_messages("s", 3) == []


async def test_many_archived_messages(memories):
    await memories.add_messages("s", messages(*map(str, range(300))))
    await memories.archive_oldest_messages("s", 120)
    assert await contents(memories) == [str(number) for number in range(120, 300)]
    await memories.archive_oldest_messages("s", 170)
    assert len(await contents(memories)) == 10
    assert len(await contents(memories, ARCHIVED)) == 290


async def test_no_message_is_archived_twice(memories):
    await memories.add_messages("s", messages(*map(str, range(30))))
    found = await asyncio.gather(*(memories.archive_oldest_messages("s", 5) for _ in range(4)))
    archived = [it.content for part in found for it in part]
    assert sorted(archived, key=int) == [str(number) for number in range(20)]


async def test_two_tasks_that_read_the_same_archive_it_once(memories):
    """LlamaIndex's memory decides by what it has read: what another one has archived is not made up for."""
    await memories.add_messages("s", messages(*"abcdef"))

    have_read = asyncio.Barrier(3)

    async def turn():
        assert await contents(memories) == list("abcdef")
        await have_read.wait()
        return [it.content for it in await memories.archive_oldest_messages("s", 3)]

    found = await asyncio.gather(turn(), turn(), turn())
    assert sorted(found) == [[], [], ["a", "b", "c"]]
    assert await contents(memories) == list("def")


OTHER = """
import asyncio, sys
from langchain_histories.integrations.llama_index import LlamaIndexMemoryStore

async def main():
    memories = LlamaIndexMemoryStore(sys.argv[1])
    read = await memories.get_messages("s")
    print(len(read), flush=True)
    sys.stdin.readline()
    print(len(await memories.archive_oldest_messages("s", 3)), flush=True)

asyncio.run(main())
"""


async def test_two_processes_that_read_the_same_archive_it_once(tmp_path):
    url = f"sqlite:///{tmp_path}/chats.db"
    memories = LlamaIndexMemoryStore(url)
    await memories.add_messages("s", messages(*"abcdef"))
    other = subprocess.Popen([sys.executable, "-c", OTHER, url], stdin=-1, stdout=-1, text=True)  # noqa: ASYNC220
    assert other.stdout.readline() == "6\n"
    await contents(memories)
    assert len(await memories.archive_oldest_messages("s", 3)) == 3
    assert other.communicate("\n")[0] == "0\n"
    assert await contents(memories) == list("def")


async def test_a_memory_of_llama_index(memories):
    memory = Memory.from_defaults(
        session_id="s", token_limit=40, token_flush_size=5, chat_history_token_ratio=0.5, chat_store=memories
    )
    memories.message_store.append("s", [HumanMessage("from LangChain", id="1"), AIMessage("yes", id="2")])
    for number in range(6):
        await memory.aput(ChatMessage(f"question {number} of some length"))
        await memory.aput(ChatMessage("an answer", role="assistant"))
    active = await memory.aget()
    assert 0 < len(active) < 14
    assert len(await memory.aget_all(status=None)) == 14
    assert [it.id for it in memories.message_store.read("s")][:2] == ["1", "2"]
    again = pickle.loads(pickle.dumps(memories))
    assert again.message_store is memories.message_store
    assert json.loads(memories.model_dump_json())["class_name"] == "LlamaIndexMemoryStore"


def test_a_store_without_a_state():
    with pytest.raises(UnsupportedOperationError, match="kafka"):
        LlamaIndexMemoryStore(KafkaStore("kafka://127.0.0.1:1"))
