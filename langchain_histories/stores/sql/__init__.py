"""Histories in SQLite, PostgreSQL (also AlloyDB and Cloud SQL), MariaDB, MySQL and YugabyteDB.

| room | what lives there |
|---|---|
| `store.py` | `SQLStore`: arguments and their documentation |
| `history.py` | `SQLChatMessageHistory`: LangChain's interface |
| `postgres.py` | `PostgresChatMessageHistory`: that of langchain-postgres and of langchain-community |
| `operations.py` | what the store can do; how a writer locks its session |
| `layout.py` | what the tables are: what set-up finds and makes, what the columns can hold |
| `states.py` | the statements over the table of states |
| `expiry.py` | when sessions expire: the statements over the table of expiries |
| `statements.py` | the statements over one table, by database |
| `newest.py` | the statement that lists sessions from the newest on |
| `jsonb.py` | records in PostgreSQL's JSONB |
| `connections.py` | the engines of a place: by a URL, or the caller's |
| `drivers.py` | which driver serves the blocking methods, and which the async ones |
| `engines.py` | how operations use an engine, and what its errors mean |
| `waits.py` | how long the drivers wait, and which idle connections have been cut; `psycopg_waits.py` for psycopg |
| `sqlite_files.py` | the files of SQLite: who may read them, and that removed rows are overwritten |
| `lent_connections.py` | a connection or pool of psycopg of the caller's as an engine |
| `lent_transactions.py` | a `Connection` or `Session` of SQLAlchemy of the caller's as an engine |
| `poolers.py` | that drivers prepare nothing behind PgBouncer |
| `google.py` | AlloyDB and Cloud SQL, by Google's connectors |
| `yugabytedb.py` | what YugabyteDB does in its own way |
| `converters.py` | LangChain's interface of converters, for a model of the user's own |
| `models.py` | the store over such a model |
| `other_dialects.py` | LangChain's table in a database that none of these rooms knows |
"""

from langchain_histories.stores.sql.converters import BaseMessageConverter, DefaultMessageConverter
from langchain_histories.stores.sql.history import SQLChatMessageHistory
from langchain_histories.stores.sql.postgres import PostgresChatMessageHistory
from langchain_histories.stores.sql.store import SQLStore

__all__ = [
    "BaseMessageConverter",
    "DefaultMessageConverter",
    "PostgresChatMessageHistory",
    "SQLChatMessageHistory",
    "SQLStore",
]
