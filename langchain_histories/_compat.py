"""LangChain's base class of message histories, or an identical one once LangChain has removed it.

`langchain_core.chat_history` is deprecated and goes in langchain-core 2.0. While it exists our histories inherit from
it, because `ConversationBufferMemory` and user code check for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, get_buffer_string

if TYPE_CHECKING:
    from collections.abc import Sequence


class PlainChatMessageHistory(ABC):
    """LangChain's interface of a message history, without LangChain's class."""

    messages: list[BaseMessage]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Initialize cooperatively, as LangChain's class does."""
        super().__init__(*args, **kwargs)

    @abstractmethod
    async def aget_messages(self) -> list[BaseMessage]:
        """Return the messages, oldest first."""

    @abstractmethod
    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Add messages, all or none."""

    @abstractmethod
    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Add messages, all or none."""

    @abstractmethod
    def clear(self) -> None:
        """Remove all messages."""

    @abstractmethod
    async def aclear(self) -> None:
        """Remove all messages."""

    def add_message(self, message: BaseMessage) -> None:
        """Add one message."""
        self.add_messages([message])

    def add_user_message(self, message: HumanMessage | str) -> None:
        """Add a message of the user."""
        self.add_message(message if isinstance(message, HumanMessage) else HumanMessage(content=message))

    def add_ai_message(self, message: AIMessage | str) -> None:
        """Add a message of the model."""
        self.add_message(message if isinstance(message, AIMessage) else AIMessage(content=message))

    def __str__(self) -> str:
        """The conversation as `Human: ...` and `AI: ...` lines."""
        return get_buffer_string(self.messages)


if TYPE_CHECKING:
    from langchain_core.chat_history import BaseChatMessageHistory
else:
    try:
        from langchain_core.chat_history import BaseChatMessageHistory
    except ImportError:
        BaseChatMessageHistory = PlainChatMessageHistory

__all__ = ["BaseChatMessageHistory"]
