"""What LlamaIndex's own chat stores write, as messages of LangChain's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from langchain_histories.codec import decode_message
from langchain_histories.errors import FileFormatError
from langchain_histories.integrations.mapping.llama_index import is_llama_index, to_langchain

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage


def message_of(stored: Any) -> BaseMessage:
    """Return the message of what LlamaIndex stored, a dict or its JSON.

    Raises:
        ValueError: It is no message of LlamaIndex.
    """
    plain = json.loads(stored) if isinstance(stored, str | bytes) else stored
    if not isinstance(plain, dict) or not is_llama_index(plain):
        raise ValueError("this is no message of LlamaIndex")
    return decode_message(to_langchain(plain))


def sessions_of_simple_file(text: str | bytes) -> dict[str, list[BaseMessage]]:
    """Return the sessions of a file of `SimpleChatStore`.

    Raises:
        FileFormatError: It has another form.
    """
    try:
        data = json.loads(text)
        data = json.loads(data) if isinstance(data, str) else data
        return {key: [message_of(message) for message in messages] for key, messages in data["store"].items()}
    except Exception as error:  # noqa: BLE001  # the file may be anything
        # Not chained: a validator's error quotes the content.
        raise FileFormatError(
            f"This is no JSON of LlamaIndex's SimpleChatStore ({type(error).__name__}). Nothing was stored."
        ) from None
