"""A table of DynamoDB as its description says it is, and which errors of the driver mean what."""

from __future__ import annotations

import dataclasses
from decimal import Decimal, InvalidOperation
from http import HTTPStatus
from typing import Any

from aiobotocore.client import AioBaseClient
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ParamValidationError, ValidationError

from langchain_histories.errors import ConfigurationError
from langchain_histories.stores.base import Operations, settle

_MAX_EXPONENT = 131  # beyond it DynamoDB has no numbers
_UNAVAILABLE = {
    "ExpiredTokenException",
    "IncompleteSignatureException",
    "InvalidSignatureException",
    "LimitExceededException",
    "MissingAuthenticationTokenException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ThrottlingException",
    "TransactionInProgressException",
    "UnrecognizedClientException",
}


def number_text(value: Any) -> str | None:
    """Return a number as the service shows it, and exactly; `None` if it is none."""
    try:
        number = Decimal(value)
    except (InvalidOperation, TypeError, ValueError):
        return None
    if not number.is_finite() or abs(number.adjusted()) >= _MAX_EXPONENT:
        return None
    text = format(number, "f")
    # `normalize` would round it.
    return text.rstrip("0").rstrip(".") if "." in text else text


def code_of(error: ClientError) -> str:
    """The code of an error.

    Compare codes, not the classes of `client.exceptions`: botocore makes these on first use, without a lock, so two
    threads may have two classes of one name, and a handler lets the other one pass.
    """
    return str(error.response["Error"]["Code"])


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """A table as its description says it is.

    Attributes:
        name: Its name.
        partition_key: The attribute with the session id.
        is_number: Whether that is a number, so that session ids are.
        sort_key: The attribute of the sort key; `None` where a session is one item.
        expiry: The attribute with the time when the service may remove an item.
        messages: The attribute with the list of messages, where a session is one item.
        fixed: Attributes of the primary key that are the same for all sessions, as values of DynamoDB.
    """

    name: str
    partition_key: str
    is_number: bool
    sort_key: str | None
    expiry: str
    messages: str
    fixed: dict[str, dict[str, str]]

    @property
    def is_one_session(self) -> bool:
        """Whether the whole primary key was given, so that there is one item, whatever the session is called."""
        return self.partition_key in self.fixed

    def key(self, session: str, sort: str | None = None) -> dict[str, Any]:
        """The primary key of an item."""
        item = self.fixed if self.is_one_session else {self.partition_key: self.value(session), **self.fixed}
        return item if self.sort_key is None or sort is None else {**item, self.sort_key: {"S": sort}}

    def value(self, session: str) -> dict[str, str]:
        """The value of the partition key for a session.

        Raises:
            ConfigurationError: It is a number, and the session id is none.
        """
        if not self.is_number:
            return {"S": session}
        # One number has one session id, the one that a listing shows.
        if number_text(session) != session:
            raise ConfigurationError(
                f"The key {self.partition_key!r} of table {self.name!r} is a number, and the session id {session!r} is "
                "none as DynamoDB writes it: use whole numbers, or a table whose key is a string."
            )
        return {"N": session}

    def session(self, item: dict[str, Any]) -> str:
        """The session id of an item."""
        (session,) = item[self.partition_key].values()
        return str(session)

    async def scan(self, client: Any, prefix: str, **options: Any) -> list[dict[str, Any]]:
        """Return the items whose partition key starts with `prefix`, from all pages, if they have the fixed key."""
        items: list[dict[str, Any]] = []
        if prefix and not self.is_number:
            condition = "begins_with(#p, :p)"
            options["FilterExpression"] = " AND ".join(filter(None, [options.get("FilterExpression"), condition]))
            options["ExpressionAttributeValues"] = {**options.get("ExpressionAttributeValues", {}), ":p": {"S": prefix}}
            options["ExpressionAttributeNames"] = {
                **options.get("ExpressionAttributeNames", {}),
                "#p": self.partition_key,
            }
        while True:
            page = await settle(client.scan(TableName=self.name, ConsistentRead=True, **options))
            found = [item for item in page["Items"] if self.fixed.items() <= item.items()]
            items += [item for item in found if not self.is_number or self.session(item).startswith(prefix)]
            if (start := page.get("LastEvaluatedKey")) is None:
                return items
            options["ExclusiveStartKey"] = start


class TableOperations(Operations[Any]):
    """What the operations of both layouts have in common: the service's errors, and the table that set-up found."""

    name = "dynamodb"
    driver_errors = (BotoCoreError, ClientError)

    @property
    def table(self) -> Table:
        """The table that set-up found."""
        table: Table = self.found.what
        return table

    def is_async(self, client: Any) -> bool:
        """Whether a client is asyncio's."""
        return isinstance(client, AioBaseClient)

    def advice(self, error: Exception) -> str | None:
        if not isinstance(error, NoCredentialsError):
            return None
        return "There are no AWS credentials: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."

    def is_unavailable(self, error: Exception) -> bool:
        if isinstance(error, ClientError):
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return code_of(error) in _UNAVAILABLE or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        if isinstance(error, ParamValidationError | ValidationError):
            return False  # the driver's, before it sent anything
        return isinstance(error, BotoCoreError) or super().is_unavailable(error)
