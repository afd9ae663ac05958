"""Messages of other frameworks and LangChain's, as plain dicts: no framework is imported here.

| room | what lives there |
|---|---|
| `differences.py` | what two dicts differ in, and how one is made of the other again |
| `llama_index.py` | LlamaIndex's `ChatMessage` |
"""
