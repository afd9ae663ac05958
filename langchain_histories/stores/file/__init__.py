"""Histories in files, one JSON array per session, as LangChain's `FileChatMessageHistory` keeps it.

| room | what lives there |
|---|---|
| `store.py` | `FileStore`: arguments and their documentation |
| `history.py` | `FileChatMessageHistory`: LangChain's interface of one file, and the store of that file |
| `operations.py` | what both stores can do, under a lock |
| `format.py` | the form of a file: how batches are appended, and how any part of it is read |
| `expiry.py` | when a session expires: the small file beside it |
| `in_place.py` | how the end of a long file is edited, and what readers see meanwhile |
| `foreign.py` | files in another form, such as LangChain's, and how they are read |
| `names.py` | names, locks and rights of files |
"""

from langchain_histories.stores.file.history import FileChatMessageHistory
from langchain_histories.stores.file.store import FileStore

__all__ = ["FileChatMessageHistory", "FileStore"]
