"""`AlloyDBChatStore` and `AlloyDBEngine`, with the constructors of Google's package, on its table as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from langchain_histories.integrations.llama_index.google import Engine, GoogleChatStore, login_of, query_of

if TYPE_CHECKING:
    from typing import Self


class AlloyDBEngine(Engine):
    """An instance of AlloyDB."""

    @classmethod
    def from_instance(
        cls,
        project_id: str,
        region: str,
        cluster: str,
        instance: str,
        database: str,
        user: str | None = None,
        password: str | None = None,
        ip_type: Any = "PUBLIC",
        iam_account_email: str | None = None,
    ) -> Self:
        """Make one of an instance. Credentials are found by Google's own chain."""
        login = login_of(user, password, iam_account_email)
        path = "/".join(quote(name, safe="") for name in (region, cluster, instance, database))
        return cls({"url": f"alloydb://{login}@{project_id}/{path}{query_of(ip_type, iam_account_email)}"})


class AlloyDBChatStore(GoogleChatStore):
    """A chat store in AlloyDB: `AlloyDBChatStore.create_sync(engine, table_name)`."""
