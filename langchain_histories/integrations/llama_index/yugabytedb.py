"""`YugabyteDBChatStore`, with LlamaIndex's constructors. The table is not LlamaIndex's, but one beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from langchain_histories.integrations.llama_index.chat_store import LlamaIndexChatStore
from langchain_histories.integrations.llama_index.postgres import store_beside, url_of_params
from langchain_histories.stores.sql import SQLStore

if TYPE_CHECKING:
    from typing import Self


class YugabyteDBChatStore(LlamaIndexChatStore):
    """A chat store in YugabyteDB, a message per row.

    LlamaIndex's own table stays as it is: `import_llama_index` brings its messages here.

    Args:
        store: The store of the table; the other constructors make it.
    """

    def __init__(self, store: SQLStore) -> None:
        """Keep the store."""
        super().__init__(store)

    @classmethod
    def from_uri(
        cls,
        uri: str,
        table_name: str = "chatstore",
        schema_name: str = "public",
        debug: bool = False,
        use_jsonb: bool = False,
    ) -> Self:
        """Make one from a URL.

        Args:
            uri: `yugabytedb://` or `yugabytedb+psycopg2://`, with the options of YugabyteDB's drivers:
                `load_balance`, `topology_keys`, `yb_servers_refresh_interval`, `fallback_to_topology_keys_only`,
                `failed_host_ttl_seconds`. All others, such as `sslmode`, are kept too.
            table_name: LlamaIndex's table; ours has `_records` behind its name.
            schema_name: The schema of the table.
            debug: Whether SQLAlchemy logs its statements.
            use_jsonb: Whether messages are `JSONB`, where the table is new.
        """
        return cls(store_beside(uri, table_name, schema_name, debug=debug, jsonb=use_jsonb))

    @classmethod
    def from_params(
        cls,
        host: str | None = None,
        port: str | int | None = None,
        database: str | None = None,
        user: str | None = None,
        password: str | None = None,
        load_balance: bool = False,
        topology_keys: str | None = None,
        yb_servers_refresh_interval: int = 300,
        fallback_to_topology_keys_only: bool = False,
        failed_host_ttl_seconds: int = 5,
        table_name: str = "chatstore",
        schema_name: str = "public",
        connection_string: str | None = None,
        debug: bool = False,
        use_jsonb: bool = False,
    ) -> Self:
        """Make one from the parts of a URL, or from `connection_string`; the rest is as for `from_uri`."""
        options: dict[str, Any] = {}
        if load_balance:
            options["load_balance"] = str(load_balance).lower()
            asked = {
                "topology_keys": (topology_keys, None),
                "yb_servers_refresh_interval": (yb_servers_refresh_interval, 300),
                "fallback_to_topology_keys_only": (str(fallback_to_topology_keys_only).lower(), "false"),
                "failed_host_ttl_seconds": (failed_host_ttl_seconds, 5),
            }
            options |= {name: value for name, (value, default) in asked.items() if value != default}
        query = f"?{urlencode(options)}" if options else ""
        uri = connection_string or url_of_params("yugabytedb", host, port, database, user, password, query)
        return cls.from_uri(uri, table_name, schema_name, debug=debug, use_jsonb=use_jsonb)
