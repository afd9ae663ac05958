"""The conformance kit: what every store must do, as a pytest class to subclass.

    class TestMyStore(MessageStoreTests):
        capabilities = Capability.ATOMIC_BATCH | Capability.TAIL_READ | ...

        @pytest.fixture
        def open_store(self, my_server):
            return functools.partial(MyStore, my_server.url, table_name=f"t{uuid.uuid4().hex}")

That is all a store must give: a factory that opens it, with any options, on one and the same empty place for each test.
It must be picklable if the store has `MANY_PROCESSES`, because other processes call it too. The other fixtures are
optional; `suite/fixtures.py` has them all.

| room | what lives there |
|---|---|
| `suite/` | the tests, shelved by topic, and the fixtures that a store gives them |
| `chat_stores.py` | `ChatStoreTests`: a store as a chat store of LlamaIndex; needs that extra |
| `messages.py` | what the tests store |
| `load.py` | how long they press a store with many callers at once |
| `odd_objects.py` | objects that a message may hold though nobody thought of them, with what comes back |
| `odd_records.py` | texts that may stand where a record or a state is expected |
| `faces.py` | sync and async methods, called alike |
| `processes.py` | what the tests run in other processes |
| `forking.py` | processes that fork |

Needs the extra `testing`. Do not override or skip single tests: a store that cannot pass one lacks a capability, or is
to be fixed.
"""

import pytest

# Before the import: a test that fails then shows the values that it compared.
pytest.register_assert_rewrite(f"{__name__}.suite", f"{__name__}.chat_stores")

from langchain_histories.testing.messages import golden_messages, odd_session_ids  # noqa: E402
from langchain_histories.testing.suite import MessageStoreTests  # noqa: E402

__all__ = ["MessageStoreTests", "golden_messages", "odd_session_ids"]
