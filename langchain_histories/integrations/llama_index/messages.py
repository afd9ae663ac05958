"""LlamaIndex's `ChatMessage` of a stored message, and what is stored of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatMessage,
    ContentBlock,
    DocumentBlock,
    ImageBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from pydantic import TypeAdapter

from langchain_histories.codec import decode_message, type_and_fields
from langchain_histories.errors import CorruptRecordError, InvalidMessageError
from langchain_histories.integrations.mapping.differences import is_same
from langchain_histories.integrations.mapping.llama_index import to_langchain, to_llama_index, with_fields_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_core.messages import BaseMessage

_BLOCK: TypeAdapter[Any] = TypeAdapter(ContentBlock)
_MEDIA: dict[str, Any] = {"image": ImageBlock, "audio": AudioBlock, "video": VideoBlock, "document": DocumentBlock}

_ORIGINAL = "__langchain__"
# LlamaIndex's constructor opens what stands there as files.
_IMAGES = "images"


class _Original(NamedTuple):
    """LangChain's message of which a `ChatMessage` was made, and what was shown of it.

    It is in the `__dict__` of the `ChatMessage`, so copies and pickles have it, and neither equality nor JSON do.
    """

    message: BaseMessage
    shown: dict[str, Any]


def is_shown(message: BaseMessage) -> bool:
    """Whether LlamaIndex sees a message: `RemoveMessage` is none, it is a command of LangGraph's."""
    return message.type != "remove"


def to_chat_message(message: BaseMessage) -> ChatMessage:
    """Return LlamaIndex's message of LangChain's.

    Raises:
        CorruptRecordError: A release of LlamaIndex wrote it that knows more than the one that is installed.
    """
    kind, fields = type_and_fields(message)
    shown = to_llama_index({"type": kind, "data": fields})
    made = _made(shown)
    made.__dict__[_ORIGINAL] = _Original(message, shown)
    return made


def to_chat_messages(messages: Iterable[BaseMessage]) -> list[ChatMessage]:
    """Return LlamaIndex's messages of LangChain's."""
    return [to_chat_message(message) for message in messages if is_shown(message)]


def from_chat_message(message: ChatMessage) -> BaseMessage:
    """Return what is stored of LlamaIndex's message.

    That is the message of LangChain's that it was made of, if nobody has edited it; if somebody has, it keeps the
    fields of that one which LlamaIndex does not show.

    Raises:
        InvalidMessageError: It cannot be stored.
    """
    if not isinstance(message, ChatMessage):
        raise InvalidMessageError(f"A chat store keeps messages of LlamaIndex, not {type(message).__name__}.")
    original: _Original | None = message.__dict__.get(_ORIGINAL)
    try:
        plain = as_dict(message)
        if original is not None and is_same(plain, as_dict(_made(original.shown))):
            return original.message
        made = to_langchain(plain)
        if original is not None:
            kind, fields = type_and_fields(original.message)
            made = with_fields_of(made, {"type": kind, "data": fields})
        return decode_message(made)
    except Exception as error:  # noqa: BLE001  # what is in a message may be anything
        # Not chained: a validator's error quotes the content.
        raise InvalidMessageError(
            f"A message of LlamaIndex cannot be stored ({type(error).__name__}): nothing was stored."
        ) from None


def as_dict(message: ChatMessage) -> dict[str, Any]:
    """Return LlamaIndex's message as a plain dict; what programs put into it is as they put it there."""
    return {
        "role": message.role.value,
        "additional_kwargs": message.additional_kwargs,
        "blocks": [_block(block) for block in message.blocks],
    }


def _block(block: Any) -> dict[str, Any]:
    if isinstance(block, ToolCallBlock):
        return {name: value for name, value in vars(block).items() if value is not None}
    plain: dict[str, Any] = block.model_dump(mode="json", exclude_none=True)
    if isinstance(block, ThinkingBlock):
        plain["additional_information"] = block.additional_information
    return plain


def _made(plain: dict[str, Any]) -> ChatMessage:
    kwargs = dict(plain["additional_kwargs"])
    images = {_IMAGES: kwargs.pop(_IMAGES)} if _IMAGES in kwargs else {}
    try:
        made = ChatMessage(
            role=plain["role"], additional_kwargs=kwargs, blocks=[_made_block(block) for block in plain["blocks"]]
        )
    except ValueError:
        raise CorruptRecordError(
            "It is a message of LlamaIndex that the installed release of llama-index-core does not know."
        ) from None
    made.additional_kwargs.update(images)
    return made


def _made_block(plain: dict[str, Any]) -> Any:
    """Return a block; that of a file that is gone, too."""
    try:
        return _BLOCK.validate_python(plain)
    except ValueError:
        if plain["block_type"] not in _MEDIA or "path" not in plain:
            raise
        return _MEDIA[plain["block_type"]].model_construct(**plain)
