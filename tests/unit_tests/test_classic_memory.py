"""LangChain's old memory classes over our histories, beside the same over LangChain's own.

The classes that prune (`ConversationSummaryBufferMemory`, `ConversationTokenBufferMemory` and what inherits from it) pop
messages from the list that `chat_memory.messages` returned. That shortens LangChain's history in memory, whose list is
its storage, and none that is kept anywhere else. Ours do what LangChain's stored histories do: they keep all.
"""

import copy
import zlib
from typing import Any

import pytest
from langchain_classic.chains import ConversationChain
from langchain_classic.memory import (
    CombinedMemory,
    ConversationBufferMemory,
    ConversationBufferWindowMemory,
    ConversationEntityMemory,
    ConversationSummaryBufferMemory,
    ConversationSummaryMemory,
    ConversationTokenBufferMemory,
    ReadOnlySharedMemory,
)
from langchain_classic.memory.vectorstore_token_buffer_memory import ConversationVectorStoreTokenBufferMemory
from langchain_community.chat_message_histories import FileChatMessageHistory as LangChainFileHistory
from langchain_core.chat_history import InMemoryChatMessageHistory as LangChainMemoryHistory
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import LLM
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_histories import HistoryRegistry, InMemoryChatMessageHistory, open_store

pytestmark = [
    pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*langchain-community.*:DeprecationWarning"),
]

TURNS = [(f"question {number} about tea", f"answer {number}\nwith two lines") for number in range(6)]
LIMIT = 20


class Words(LLM):
    """A model that answers with a checksum of what it was asked, and whose tokens are words."""

    calls: list[str] = []  # noqa: RUF012  # a field, copied for each model

    def _call(self, prompt: str, *args: Any, **kwargs: Any) -> str:
        self.calls.append(prompt)
        return f"gist {zlib.crc32(prompt.encode())}"

    @property
    def _llm_type(self) -> str:
        return "words"

    def get_num_tokens(self, text: str) -> int:
        return len(text.split())


@pytest.fixture(params=["memory", "drop-in", "file", "sqlite", "sqlite in memory", "turn"])
def ours(request: pytest.FixtureRequest, tmp_path: Any) -> Any:
    """A history of ours."""
    if request.param == "drop-in":
        yield InMemoryChatMessageHistory()
        return
    url = {
        "file": f"file://{tmp_path}/chats",
        "sqlite": f"sqlite:///{tmp_path}/chats.db",
        "sqlite in memory": "sqlite://",
    }.get(request.param, "memory://")
    with HistoryRegistry({"chats": open_store(url)}) as registry:
        yield registry.get_session_history("42") if request.param == "turn" else registry.history("42")


@pytest.fixture
def theirs() -> Any:
    """LangChain's history whose list is its storage."""
    return LangChainMemoryHistory()


@pytest.fixture
def stored(tmp_path: Any) -> Any:
    """A history of LangChain that is stored somewhere."""
    return LangChainFileHistory(str(tmp_path / "theirs.json"))


def run(memory: Any) -> list[Any]:
    """What a memory shows before, between and after turns, and when it is cleared.

    Copied, because a list of LangChain's history in memory changes behind the reader's back.
    """
    seen = [copy.deepcopy(memory.load_memory_variables({"input": "?"}))]
    for question, answer in TURNS:
        memory.save_context({"input": question}, {"output": answer})
        seen.append(copy.deepcopy(memory.load_memory_variables({"input": question})))
    memory.clear()
    return [*seen, memory.load_memory_variables({"input": "?"})]


async def arun(memory: Any) -> list[Any]:
    seen = [copy.deepcopy(await memory.aload_memory_variables({"input": "?"}))]
    for question, answer in TURNS:
        await memory.asave_context({"input": question}, {"output": answer})
        seen.append(copy.deepcopy(await memory.aload_memory_variables({"input": question})))
    await memory.aclear()
    return [*seen, await memory.aload_memory_variables({"input": "?"})]


KEEPING = {
    "buffer": lambda history, **options: ConversationBufferMemory(chat_memory=history, **options),
    "window": lambda history, **options: ConversationBufferWindowMemory(chat_memory=history, k=2, **options),
    "window of none": lambda history, **options: ConversationBufferWindowMemory(chat_memory=history, k=0, **options),
    "summary": lambda history, **options: ConversationSummaryMemory(chat_memory=history, llm=Words(), **options),
    "summary with a tail, under its limit": lambda history, **options: ConversationSummaryBufferMemory(
        chat_memory=history, llm=Words(), max_token_limit=10_000, **options
    ),
    "tokens, under the limit": lambda history, **options: ConversationTokenBufferMemory(
        chat_memory=history, llm=Words(), max_token_limit=10_000, **options
    ),
}
PRUNING = {
    "summary with a tail": lambda history, **options: ConversationSummaryBufferMemory(
        chat_memory=history, llm=Words(), max_token_limit=LIMIT, **options
    ),
    "tokens": lambda history, **options: ConversationTokenBufferMemory(
        chat_memory=history, llm=Words(), max_token_limit=LIMIT, **options
    ),
}


@pytest.mark.parametrize("return_messages", [True, False])
@pytest.mark.parametrize("kind", KEEPING)
class TestKeeping:
    def test_sync(self, kind: str, return_messages: bool, ours: Any, theirs: Any) -> None:
        expected = run(KEEPING[kind](theirs, return_messages=return_messages))
        assert run(KEEPING[kind](ours, return_messages=return_messages)) == expected
        assert ours.messages == theirs.messages == []

    async def test_async(self, kind: str, return_messages: bool, ours: Any, theirs: Any) -> None:
        expected = await arun(KEEPING[kind](theirs, return_messages=return_messages))
        assert await arun(KEEPING[kind](ours, return_messages=return_messages)) == expected


@pytest.mark.parametrize("return_messages", [True, False])
@pytest.mark.parametrize("kind", PRUNING)
class TestPruning:
    def test_sync(self, kind: str, return_messages: bool, ours: Any, stored: Any) -> None:
        expected = run(PRUNING[kind](stored, return_messages=return_messages))
        assert run(PRUNING[kind](ours, return_messages=return_messages)) == expected

    async def test_async(self, kind: str, return_messages: bool, ours: Any, stored: Any) -> None:
        expected = await arun(PRUNING[kind](stored, return_messages=return_messages))
        assert await arun(PRUNING[kind](ours, return_messages=return_messages)) == expected


@pytest.mark.parametrize("kind", PRUNING)
def test_nothing_is_pruned_from_the_transcript(kind: str, ours: Any, theirs: Any) -> None:
    for memory in (PRUNING[kind](ours), PRUNING[kind](theirs)):
        for question, answer in TURNS:
            memory.save_context({"input": question}, {"output": answer})
    assert len(ours.messages) == 2 * len(TURNS)
    assert len(theirs.messages) < len(TURNS)


def test_a_summary_of_what_is_there_already(ours: Any, theirs: Any) -> None:
    buffers = []
    for history in (ours, theirs):
        history.add_messages([HumanMessage(question) for question, _ in TURNS])
        buffers.append(ConversationSummaryMemory.from_messages(Words(), history).buffer)
    assert buffers[0] == buffers[1]


def test_entities(ours: Any, theirs: Any) -> None:
    memories = [ConversationEntityMemory(chat_memory=history, llm=Words()) for history in (ours, theirs)]
    assert run(memories[0]) == run(memories[1])


def test_a_vector_store_behind_a_buffer(ours: Any, stored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a stored history it moves the oldest turn again with each turn, until it has no time left to give it."""
    seen = []
    for history in (ours, stored):
        vectors = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
        memory = ConversationVectorStoreTokenBufferMemory(
            chat_memory=history,
            llm=Words(),
            retriever=vectors.as_retriever(),
            max_token_limit=LIMIT,
            return_messages=True,
        )
        memory.save_context({"input": TURNS[0][0]}, {"output": TURNS[0][1]})
        seen.append(memory.load_memory_variables({"input": "?"})["history"][1:])
        with pytest.raises(IndexError):
            run(memory)
        seen.append(history.messages)
    assert seen[:2] == seen[2:]


def test_in_a_chain(ours: Any, theirs: Any) -> None:
    answers = []
    for history in (ours, theirs):
        chain = ConversationChain(llm=Words(), memory=ConversationBufferMemory(chat_memory=history))
        answers.append([chain.predict(input=question) for question, _ in TURNS])
    assert answers[0] == answers[1]
    assert [type(message) for message in ours.messages] == [HumanMessage, AIMessage] * len(TURNS)


async def test_in_a_chain_async(ours: Any, theirs: Any) -> None:
    answers = []
    for history in (ours, theirs):
        chain = ConversationChain(llm=Words(), memory=ConversationBufferMemory(chat_memory=history))
        answers.append([await chain.apredict(input=question) for question, _ in TURNS])
    assert answers[0] == answers[1]


def test_several_memories_of_one_history(ours: Any, theirs: Any) -> None:
    seen = []
    for history in (ours, theirs):
        whole = ConversationBufferMemory(chat_memory=history, memory_key="whole", input_key="input")
        window = ConversationBufferWindowMemory(chat_memory=history, memory_key="window", input_key="input", k=1)
        seen.append(run(CombinedMemory(memories=[whole, ReadOnlySharedMemory(memory=window)])))
    assert seen[0] == seen[1]


def test_what_the_memory_reads_is_its_own(ours: Any) -> None:
    memory = ConversationBufferMemory(chat_memory=ours, return_messages=True)
    memory.save_context({"input": "a"}, {"output": "b"})
    memory.load_memory_variables({})["history"].clear()
    assert len(ours.messages) == 2


def test_messages_of_every_kind_are_shown(ours: Any, theirs: Any) -> None:
    messages: list[BaseMessage] = [
        AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "1"}]),
        ToolMessage("2", tool_call_id="1"),
        HumanMessage([{"type": "text", "text": "naïve 🍵"}]),
    ]
    shown = []
    for history in (ours, theirs):
        history.add_messages(messages)
        for return_messages in (True, False):
            memory = ConversationBufferMemory(chat_memory=history, return_messages=return_messages)
            shown.append(memory.load_memory_variables({}))
    assert shown[:2] == shown[2:]
