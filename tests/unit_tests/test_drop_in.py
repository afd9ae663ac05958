"""Programs of LangChain's classes run with only their import changed."""

from __future__ import annotations

import asyncio
import uuid

import langchain_community.chat_message_histories as community
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from sqlalchemy import create_engine

import langchain_histories as ours


def tutorial(module, folder):
    """The program of the usual tutorial; returns all that it saw."""
    seen = []
    store = {}

    def get_session_history(session_id):
        if session_id not in store:
            store[session_id] = module.ChatMessageHistory()
        return store[session_id]

    histories = [
        get_session_history("1"),
        module.FileChatMessageHistory(f"{folder}/history.json"),
        module.SQLChatMessageHistory(session_id="foo", connection=create_engine(f"sqlite:///{folder}/one.db")),
        module.SQLChatMessageHistory("foo", connection=f"sqlite:///{folder}/two.db"),
    ]
    assert get_session_history("1") is histories[0]
    for history in histories:
        history.add_user_message("hi!")
        history.add_ai_message("what's up?")
        history.add_message(SystemMessage("be brief"))
        history.add_messages([HumanMessage("list"), AIMessage("of two")])
        seen += [list(history.messages), str(history)]
        history.clear()
        seen.append(list(history.messages))
    asyncio.run(histories[0].aadd_messages([HumanMessage("later")]))
    seen += [asyncio.run(histories[0].aget_messages()), repr(histories[0])]
    return seen


@pytest.mark.filterwarnings("ignore")
def test_the_usual_tutorial(tmp_path):
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    mine = tutorial(ours, tmp_path / "ours")
    theirs = tutorial(community, tmp_path / "theirs")
    assert [repr(each) for each in mine] == [repr(each) for each in theirs]


def test_session_ids_of_other_types(tmp_path):
    ids = [uuid.UUID(int=7), 42, "42x"]
    for session_id in ids:
        ours.SQLChatMessageHistory(session_id, connection=f"sqlite:///{tmp_path}/x.db").add_user_message(
            str(session_id)
        )
    read = [
        ours.SQLChatMessageHistory(str(s), connection=f"sqlite:///{tmp_path}/x.db").messages[0].content for s in ids
    ]
    assert read == [str(session_id) for session_id in ids]
