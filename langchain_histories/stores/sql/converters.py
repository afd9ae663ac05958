"""Converters between messages and a SQLAlchemy model of the user's own: LangChain's interface."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from langchain_core.messages import message_to_dict, messages_from_dict

from langchain_histories.stores.base import needs_extra

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage


class BaseMessageConverter(ABC):
    """Converts between messages and a SQLAlchemy model of your own: LangChain's class of this name."""

    @abstractmethod
    def from_sql_model(self, sql_message: Any) -> BaseMessage:
        """Return the message of a row."""

    @abstractmethod
    def to_sql_model(self, message: BaseMessage, session_id: str) -> Any:
        """Return the row of a message."""

    @abstractmethod
    def get_sql_model_class(self) -> Any:
        """Return the class of the rows. It has an `id` that orders them, and a column of session ids."""


class DefaultMessageConverter(BaseMessageConverter):
    """LangChain's converter, for its table.

    Args:
        table_name: The table.
    """

    def __init__(self, table_name: str) -> None:
        """Make the model."""
        with needs_extra("sql"):
            import sqlalchemy as sa
            from sqlalchemy.orm import declarative_base

        columns = {
            "__tablename__": table_name,
            "id": sa.Column(sa.Integer, primary_key=True),
            "session_id": sa.Column(sa.Text),
            "message": sa.Column(sa.Text),
        }
        self.model_class: Any = type("Message", (declarative_base(),), columns)

    def from_sql_model(self, sql_message: Any) -> BaseMessage:
        """Return the message of a row."""
        return messages_from_dict([json.loads(sql_message.message)])[0]

    def to_sql_model(self, message: BaseMessage, session_id: str) -> Any:
        """Return the row of a message."""
        return self.model_class(session_id=session_id, message=json.dumps(message_to_dict(message)))

    def get_sql_model_class(self) -> Any:
        """Return the class of the rows."""
        return self.model_class
