"""`TablestoreStore`: histories in Alibaba Tablestore, a partition per session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_histories.stores.base import MessageStore, StoreOptions, check_timeout, needs_extra

if TYPE_CHECKING:
    from typing import Unpack


class TablestoreStore(MessageStore):
    """Keeps histories in Alibaba Tablestore.

    Args:
        url: `tablestore://[access_key_id:access_key_secret@]instance.region.ots.aliyuncs.com[/instance]`, by HTTPS;
            `tablestore+http://` without. Without keys those of the environment are used: `TABLESTORE_ACCESS_KEY_ID` and
            `TABLESTORE_ACCESS_KEY_SECRET`, else `ALIBABA_CLOUD_ACCESS_KEY_ID`, `..._SECRET` and
            `ALIBABA_CLOUD_SECURITY_TOKEN`. `?region=cn-hangzhou` signs requests for that region (version 4).
        table_name: The table of the messages; states are in the one with `_state` behind its name. Both are made when
            they are missing.
        client: Your own `tablestore.OTSClient`, in place of `url`. It is never closed here.
        async_client: Your own `tablestore.AsyncOTSClient`. With one of the two alone, the other side is not derived:
            async methods run a blocking client in threads, sync methods refuse an async one.
        timeout: Seconds after which a call that gets no answer, or no free connection, raises `StoreUnavailableError`;
            10 by default, and to connect 5 at most. An async call has them for all its waits together, a sync one for
            each request. What may take as long as what is stored is large ends when nothing has arrived for so long.
            With an async client of your own there is no default, and with a blocking one no `timeout`.
        max_connections: How many connections the pool of the sync methods has, and that of each event loop. Who finds
            none free waits, in order. Only with `url`.
        client_options: More options for the clients of the SDK, such as `{"socket_timeout": 5}`, `retry_policy` or
            `credentials_provider`; only with `url`.
        **options: See `StoreOptions`. There is no `ttl`, because the service would let each message expire for itself.

    Raises:
        ConfigurationError: An argument cannot be used, or there is no access key.
        MissingExtraError: The SDK is not installed.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        table_name: str = "message_store",
        client: Any = None,
        async_client: Any = None,
        timeout: float | None = None,
        max_connections: int | None = None,
        client_options: dict[str, Any] | None = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Keep where to connect to."""
        with needs_extra("tablestore"):
            from langchain_histories.stores.tablestore.connections import clients_of
            from langchain_histories.stores.tablestore.operations import TablestoreOperations
        self.table_name = table_name
        clients, given, timeout = clients_of(
            url,
            client,
            async_client,
            client_options=client_options,
            max_connections=max_connections,
            timeout=check_timeout(timeout),
        )
        operations = TablestoreOperations(table_name)
        super().__init__(operations, clients, url, driver_options=given, timeout=timeout, **options)
