"""LlamaIndex: every store as a chat store.

| room | what lives there |
|---|---|
| `chat_store.py` | `LlamaIndexChatStore` |
| `messages.py` | its messages, and what is stored of them |
| `forms.py` | what LlamaIndex's own chat stores write |

Needs the extra `llama-index`.
"""

from langchain_histories.errors import needs_extra

with needs_extra("llama-index"):
    from langchain_histories.integrations.llama_index.chat_store import LlamaIndexChatStore

__all__ = ["LlamaIndexChatStore"]
