"""LlamaIndex's agents and engines with a memory on a store, with models that need no network."""

import pytest

pytest.importorskip("llama_index.core")

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.agent import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ToolCallBlock
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms import MockLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.memory import ChatMemoryBuffer

from langchain_histories import MemoryStore
from langchain_histories.integrations.llama_index import LlamaIndexChatStore


class CallsOnce(MockFunctionCallingLLM):
    """Calls the tool for a question, and answers when it has the result."""

    def _prepare_chat_with_tools(self, tools, user_msg=None, chat_history=None, **more):
        messages = [
            *(chat_history or ()),
            *([ChatMessage(user_msg)] if isinstance(user_msg, str) else [user_msg] if user_msg else []),
        ]
        return {"messages": messages}

    def _answer(self, messages):
        if messages[-1].role == "tool":
            return ChatMessage(f"It is {messages[-1].content}.", role="assistant")
        call = ToolCallBlock(tool_call_id=f"call-{len(messages)}", tool_name="weather", tool_kwargs={"city": "Riga"})
        return ChatMessage(role="assistant", blocks=[call])

    async def astream_chat_with_tools(self, tools, user_msg=None, chat_history=None, **more):
        message = self._answer(self._prepare_chat_with_tools(tools, user_msg, chat_history)["messages"])

        async def answers():
            yield ChatResponse(message=message, raw={})

        return answers()

    async def achat_with_tools(self, tools, user_msg=None, chat_history=None, **more):
        message = self._answer(self._prepare_chat_with_tools(tools, user_msg, chat_history)["messages"])
        return ChatResponse(message=message, raw={})

    def get_tool_calls_from_response(self, response, error_on_no_tool_call=True, **more):
        return [
            ToolSelection(tool_id=it.tool_call_id, tool_name=it.tool_name, tool_kwargs=it.tool_kwargs)
            for it in response.message.blocks
            if isinstance(it, ToolCallBlock)
        ]


def weather(city: str) -> str:
    """The weather of a city."""
    return "21 degrees"


async def test_an_agent_that_calls_functions_keeps_its_calls():
    store = MemoryStore()
    memory = ChatMemoryBuffer.from_defaults(token_limit=3000, chat_store=LlamaIndexChatStore(store), chat_store_key="s")
    agent = FunctionAgent(tools=[weather], llm=CallsOnce())
    for _ in range(2):
        answer = await agent.run(user_msg="How warm is it in Riga?", memory=memory)
        assert str(answer) == "It is 21 degrees."
    messages = store.read("s")
    assert [it.type for it in messages] == ["human", "ai", "tool", "ai"] * 2
    assert messages[1].tool_calls[0]["args"] == {"city": "Riga"}
    assert messages[2].tool_call_id == messages[1].tool_calls[0]["id"]


async def test_a_chat_engine_of_an_index():
    chat_store = LlamaIndexChatStore()
    index = VectorStoreIndex.from_documents([Document(text="Riga is in Latvia.")], embed_model=MockEmbedding(3))
    memory = ChatMemoryBuffer.from_defaults(token_limit=3000, chat_store=chat_store, chat_store_key="s")
    engine = index.as_chat_engine(chat_mode="context", llm=MockLLM(), memory=memory)
    assert (await engine.achat("Where is Riga?")).response
    assert [it.role.value for it in chat_store.get_messages("s")] == ["user", "assistant"]
