"""Event loops: never blocked, and an append that is cancelled."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from blockbuster import blockbuster_ctx
from langchain_core.messages import HumanMessage

from langchain_histories import Capability
from langchain_histories.testing.messages import numbered, texts
from langchain_histories.testing.processes import counted_up
from langchain_histories.testing.suite.fixtures import StoreFixtures

if TYPE_CHECKING:
    from langchain_histories import MessageStore
    from langchain_histories.testing.suite.fixtures import OpenStore


class AsyncTests(StoreFixtures):
    """Rule 12."""

    def test_async_never_blocks_the_loop(self, open_store: OpenStore) -> None:
        """Rule 12: no operation makes a blocking call on the event loop, nor does the first, which opens a client."""

        async def work() -> None:
            store = open_store()
            with blockbuster_ctx() as detector:
                for function in detector.functions.values():
                    for file, name in self.driver_blocks_in:
                        function.can_block_in(file, name)
                await store.aread("s")
                await store.aappend("s", numbered(3))
                await store.aread("s")
                await store.arecords("s", last=1)
                await store.acount("s")
                if self.has(Capability.STATE):
                    await store.aput_state("s", {"a": 1})
                    await store.aget_state("s")
                    await store.aupdate_state("s", counted_up)
                if self.has(Capability.REPLACE):
                    await store.areplace("s", numbered(2))
                if self.has(Capability.DELETE):
                    await store.adelete("s", [record.id for record in await store.arecords("s")])
                if self.has(Capability.SESSIONS):
                    await store.asessions()
                await store.aclear("s")
                await store.aclose()

        asyncio.run(work())

    def test_a_cancelled_append_is_whole_or_nothing(self, store: MessageStore) -> None:
        """Rule 12: wherever it is cancelled, and the store works on."""
        chance = random.Random(7)  # noqa: S311

        async def work() -> list[str]:
            await store.aappend("s", [HumanMessage("start")])
            for number in range(40):
                batch = [HumanMessage(f"{number} {part}") for part in range(3)]
                task = asyncio.create_task(store.aappend("s", batch))
                await asyncio.sleep(chance.random() * 0.004)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await store.aappend("s", [HumanMessage("end")])
            return texts(await store.aread("s"))

        first, *stored, last = asyncio.run(work())
        assert (first, last) == ("start", "end")
        batches = [stored[start : start + 3] for start in range(0, len(stored), 3)]
        numbers = [int(batch[0].split()[0]) for batch in batches]
        assert batches == [[f"{number} {part}" for part in range(3)] for number in numbers]
