"""The figures of this package beside LangChain's classes and the bare drivers, as a markdown table.

    python benchmarks/run.py [--only redis,file] [--quick]

The contenders take turns in one run, in a random order, and the median of their times counts: absolute times say
something about this machine, the ratios about the code. In each store a turn is appended to short and to long
histories, the end of a long one and all of a middling one are read, many sessions have a turn at once, and the
connections of many histories are counted. What a store or LangChain's class for it cannot do is left out, or done with
less, which its row or a note below the table says.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.metadata
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from contenders import CONTENDERS, Contender, by_hand, conversation, messages_of  # noqa: E402  # behind the path
from langchain_core.messages import message_to_dict  # noqa: E402
from servers import ServerUnavailable  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from langchain_core.messages import BaseMessage

Key = TypeVar("Key")

TURN = conversation(4)[2:]
SHORT_SESSIONS = 50
COLUMNS = ("ours", "floor", "ours ÷ floor", "floor + JSON by hand", "LangChain's", "LangChain's ÷ ours", "goal", "met")
PACKAGES = ("langchain-core", "langchain-community", "langchain-mongodb", "pydantic", "redis", "sqlalchemy")
DRIVERS = ("psycopg", "aiosqlite", "pymongo", "boto3", "aiobotocore", "confluent-kafka")


class Table:
    """Prints its rows as they come."""

    def __init__(self) -> None:
        print("|", " | ".join(("work", "store", *COLUMNS)), "|")
        print("|---" * (len(COLUMNS) + 2) + "|", flush=True)

    def add(self, work: str, store: str, *, goal: str = "", met: bool | None = None, **cells: str) -> None:
        """Print a row."""
        verdict = "" if met is None else "yes" if met else "**no**"
        order = ("ours", "floor", "by_floor", "by hand", "theirs", "by_ours")
        print("|", " | ".join((work, store, *(cells.get(name, "") for name in order), goal, verdict)), "|", flush=True)

    def times(
        self,
        work: str,
        store: str,
        times: Mapping[str, float],
        *,
        floor: float | None = None,
        theirs: float = 0,
        their_length: int | None = None,
    ) -> None:
        """Print times in seconds; `floor` is the most that ours may be of it, `theirs` the least of theirs to ours.

        `their_length` is that of LangChain's history, where it is not the one that `work` says.
        """
        cells = {name: duration(value) for name, value in times.items()}
        goals, met = [], []
        if "floor" in times:
            cells["by_floor"] = f"{times['ours'] / times['floor']:.2f}"
            if floor is not None:
                goals.append(f"≤ {floor} × floor")
                met.append(times["ours"] <= floor * times["floor"])
        if "theirs" in times:
            cells["by_ours"] = ratio(times["theirs"] / times["ours"])
            if their_length is not None:
                cells["theirs"] += f" with {their_length:,}"
            if theirs:
                goals.append(f"≥ {ratio(theirs)} ×")
                met.append(times["theirs"] >= theirs * times["ours"])
        self.add(work, store, goal=", ".join(goals), met=all(met) if met else None, **cells)


def duration(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.{2 if seconds < 1 else 0}f} ms"  # noqa: PLR2004


def ratio(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"  # noqa: PLR2004


async def interleaved(contenders: Mapping[Key, Callable[[int], Any]], seconds: float) -> dict[Key, float]:
    """Let contenders take turns, each until it has had its share of the time; return the median of each."""
    share, spent = seconds / len(contenders), dict.fromkeys(contenders, 0.0)
    samples: dict[Key, list[float]] = {name: [] for name in contenders}
    turn = 0
    while waiting := [name for name in contenders if spent[name] < share or len(samples[name]) < 5]:  # noqa: PLR2004
        random.shuffle(waiting)
        for name in waiting:
            begin = time.perf_counter()
            result = contenders[name](turn)
            if asyncio.iscoroutine(result):
                await result
            took = time.perf_counter() - begin
            spent[name] += took
            samples[name].append(took)
        turn += 1
    return {name: statistics.median(times[len(times) // 20 :]) for name, times in samples.items()}


async def appends(table: Table, contender: Contender, seconds: float) -> None:
    """Append a turn to short and to long histories."""
    _, texts = contender.ours.format.encode(TURN)
    long = contender.longest
    with_theirs = {10: True, long: not contender.theirs_rewrites}
    for number in range(SHORT_SESSIONS):
        contender.fill(f"short{number}", conversation(10))
    contender.fill("long", conversation(long))
    for is_async in (False, True):
        run: dict[tuple[int, str], Callable[[int], Any]] = {}
        for length in (10, long):
            names = [f"short{number}" for number in range(SHORT_SESSIONS)] if length == 10 else ["long"]  # noqa: PLR2004
            ours = [contender.ours.history(f"ours-{name}") for name in names]
            make = contender.their_async if is_async else contender.theirs
            theirs = [make(f"theirs-{name}") for name in names] if with_theirs[length] else []
            sides = append_contenders(contender, ours, theirs, names, texts, is_async=is_async)
            run |= {(length, name): side for name, side in sides.items()}
        found = await interleaved(run, 2 * seconds)
        medians = {
            length: {name: time for (its_length, name), time in found.items() if its_length == length}
            for length in (10, long)
        }
        for length, times in medians.items():
            work = f"append a turn, {'async' if is_async else 'sync'}, history of {length:,}"
            table.times(work, contender.name, times, floor=1.3, their_length=fewer(contender, length))
        flat = medians[long]["ours"] / medians[10]["ours"]
        work = f"append a turn, {'async' if is_async else 'sync'}, {long:,} ÷ 10"
        table.add(work, contender.name, ours=f"× {flat:.2f}", goal="flat (≤ 1.3)", met=flat <= 1.3)  # noqa: PLR2004


def fewer(contender: Contender, length: int) -> int | None:
    """The length of LangChain's history where it cannot be so long."""
    return contender.their_longest if contender.their_longest < length else None


def append_contenders(
    contender: Contender, ours: list[Any], theirs: list[Any], names: list[str], texts: list[str], *, is_async: bool
) -> dict[str, Callable[[int], Any]]:
    floor = contender.aappend if is_async else contender.append
    add = "aadd_messages" if is_async else "add_messages"
    floors = [f"floor-{name}" for name in names]
    run = {
        "ours": lambda turn: getattr(ours[turn % len(ours)], add)(TURN),
        "floor": lambda turn: floor(floors[turn % len(names)], texts),
        "by hand": lambda turn: floor(floors[turn % len(names)], by_hand(TURN)),
    }
    if theirs:
        run["theirs"] = lambda turn: getattr(theirs[turn % len(theirs)], add)(TURN)
    return run


async def reads(table: Table, contender: Contender, seconds: float) -> None:
    """Read the end of a long history, and all of a middling one."""
    long = min(10_000, contender.longest)
    contender.fill("tail", conversation(long))
    number = min(1_000, contender.their_longest)
    contender.fill("all", conversation(number))
    ours, theirs = contender.ours.history("ours-tail", last=20), contender.theirs("theirs-tail")
    run: dict[str, Callable[[int], Any]] = {
        "ours": lambda _: ours.messages,
        "floor": lambda _: contender.tail("floor-tail", 20),
        "by hand": lambda _: messages_of(contender.tail("floor-tail", 20)),
        "theirs": lambda _: theirs.messages[-20:],
    }
    same(ours.messages, run["by hand"](0), theirs.messages[-20:], conversation(long)[-20:])
    times = await interleaved(run, seconds)
    work = f"read the last 20 of {long:,}"
    table.times(work, contender.name, times, floor=1.5, theirs=100, their_length=fewer(contender, long))

    all_ours = contender.ours.history("ours-all")
    all_theirs, their_async = contender.theirs("theirs-all"), contender.their_async("theirs-all")
    same(all_ours.messages, all_theirs.messages, conversation(number))
    same(await all_ours.aget_messages(), await their_async.aget_messages(), conversation(number))
    run = {"ours": lambda _: all_ours.messages, "theirs": lambda _: all_theirs.messages}
    times = await interleaved(run, seconds)
    table.times(f"read all {number:,}, sync", contender.name, times, theirs=1 / 0.7)
    run = {"ours": lambda _: all_ours.aget_messages(), "theirs": lambda _: their_async.aget_messages()}
    times = await interleaved(run, seconds)
    table.times(f"read all {number:,}, async", contender.name, times, theirs=1 / 0.7)
    if (found := contender.ours_of_theirs("theirs-all")) is not None:
        same(found.messages, conversation(number))
        run = {"ours": lambda _: found.messages, "theirs": lambda _: all_theirs.messages}
        times = await interleaved(run, seconds)
        table.times(f"read all {number:,} that LangChain's class wrote", contender.name, times, theirs=1 / 0.7)


def same(*readings: Sequence[BaseMessage]) -> None:
    for reading in readings:
        assert list(map(message_to_dict, reading)) == list(map(message_to_dict, readings[0]))


async def rewrites(table: Table, contender: Contender, seconds: float) -> None:
    """Append to files, which LangChain's class writes anew for each message."""
    stores = {True: contender.ours, False: type(contender.ours)(path=contender.ours.path, fsync=False)}
    medians = {}
    for fsync, store in stores.items():
        for length in (10, 10_000):
            name = f"rewritten-{length}-{fsync}"
            contender.fill(name, conversation(length))
            ours, theirs = store.history(f"ours-{name}"), contender.theirs(f"theirs-{name}")
            run: dict[str, Callable[[int], Any]] = {
                "ours": lambda _, ours=ours: ours.add_messages(TURN),
                "theirs": lambda _, theirs=theirs: theirs.add_messages(TURN),
            }
            medians[length] = await interleaved(run, seconds)
        how = "with fsync" if fsync else "without fsync, as LangChain's"
        table.times(f"append a turn to a file of 10,000, {how}", contender.name, medians[10_000], theirs=1000)
        flat = medians[10_000]["ours"] / medians[10]["ours"]
        work = f"append a turn to a file, {how}, 10,000 ÷ 10"
        table.add(work, contender.name, ours=f"× {flat:.2f}", goal="flat (≤ 1.3)", met=flat <= 1.3)  # noqa: PLR2004


async def bursts(table: Table, contender: Contender, seconds: float) -> None:
    """Let many sessions have a turn at once on one event loop."""
    for number in range(contender.burst):
        contender.fill(f"burst{number}", conversation(20))
    sides = {
        "ours": [contender.ours.history(f"ours-burst{number}") for number in range(contender.burst)],
        "theirs": [contender.their_async(f"theirs-burst{number}") for number in range(contender.burst)],
    }

    async def turn(history: Any) -> None:
        await history.aget_messages()
        await history.aadd_messages(TURN)

    times: dict[str, list[float]] = {name: [] for name in sides}
    lags: dict[str, list[float]] = {name: [] for name in (*sides, "nobody")}
    gc.collect()
    gc.freeze()  # a full collection among all that was imported takes longer than anything measured here
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline or len(times["ours"]) < 4:  # noqa: PLR2004
        lags["nobody"].append(await worst_lag(asyncio.sleep(0.2)))
        for name in random.sample(list(sides), 2):
            begin = time.perf_counter()
            lags[name].append(await worst_lag(asyncio.gather(*map(turn, sides[name]))))
            times[name].append(time.perf_counter() - begin)
    # The first round opens the connections.
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    table.times(f"{contender.burst} sessions at once: a turn each (read, append)", contender.name, medians, theirs=5)
    worst = {name: statistics.median(values[1:]) for name, values in lags.items()}
    cells = {name: f"{duration(lag)} (worst {duration(max(lags[name][1:]))})" for name, lag in worst.items()}
    met = worst["ours"] <= 0.020  # noqa: PLR2004
    cells["floor"] = cells.pop("nobody")
    table.add("longest time that blocked the loop (floor: idle)", contender.name, goal="≤ 20 ms", met=met, **cells)
    gc.unfreeze()


async def worst_lag(work: Any) -> float:
    """The longest time that a task which wants to run each millisecond had to wait, while `work` runs."""
    worst = 0.0

    async def beat() -> None:
        nonlocal worst
        while True:
            begin = time.perf_counter()
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - begin - 0.001)

    heart = asyncio.create_task(beat())
    await asyncio.sleep(0)
    await work
    await asyncio.sleep(0)  # the last wait counts too
    heart.cancel()
    return worst


async def connections(table: Table, contender: Contender, histories: int = 1_000, their_histories: int = 50) -> None:
    """Count the connections of many histories that are in use at the same time."""
    before = contender.connections()
    if before is None:
        return
    kept = [contender.drop_in(f"ours-connection{number}") for number in range(histories)]
    for history in kept:
        history.add_messages(TURN)
    ours = (contender.connections() or 0) - before
    kept += (theirs := [contender.lone(f"theirs-connection{number}") for number in range(their_histories)])
    for history in theirs:
        history.add_messages(TURN)
    more = (contender.connections() or 0) - before - ours
    cells = {"ours": f"{ours}", "theirs": f"{more} for {their_histories}", "goal": "1 pool"}
    table.add(f"connections of {histories:,} histories", contender.name, met=ours <= 5, **cells)  # noqa: PLR2004
    kept[0].store.close()


def imports(table: Table, rounds: int, cache: str) -> None:
    """Import in fresh processes, compiled before."""

    def run_python(program: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "PYTHONPYCACHEPREFIX": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603
        return done.stdout.strip()

    # What LangChain and the driver need for themselves is loaded first: all of their modules that ours would load.
    modules = run_python("import sys; from langchain_histories import RedisChatMessageHistory; print(*sys.modules)")
    foreign = [name for name in modules.split() if name.split(".")[0] in ("langchain_core", "redis")]
    load = f"import sys, importlib, time\nfor name in {foreign!r}: importlib.import_module(name)\n"
    timed = "import time\nbegin = time.perf_counter()\n{}\nprint(time.perf_counter() - begin)"
    ours = "from langchain_histories import RedisChatMessageHistory"
    theirs = "from langchain_community.chat_message_histories import RedisChatMessageHistory"
    programs = {
        "package": timed.format("import langchain_histories"),
        "beyond": load + timed.format(ours),
        "ours": timed.format(ours),
        "theirs": timed.format(theirs),
        "floor": timed.format("import langchain_core.messages, langchain_core.chat_history, redis.asyncio"),
    }
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds + 1):
        for name, program in programs.items():
            taken[name].append(float(run_python(program)))
    medians = {name: statistics.median(times[1:]) for name, times in taken.items()}
    drivers = run_python(
        "import sys, langchain_histories; print(*({'redis', 'sqlalchemy', 'pymongo'} & {*sys.modules}))"
    )
    cell = f"{duration(medians['package'])}, drivers loaded: {drivers or 'none'}"
    table.add("`import langchain_histories`", "", ours=cell, goal="no driver", met=not drivers)
    work = f"`{ours}`"
    table.add(
        f"{work}, beyond langchain_core and redis",
        "Redis",
        ours=duration(medians["beyond"]),
        goal="≤ 20 ms",
        met=medians["beyond"] <= 0.020,  # noqa: PLR2004
    )
    table.times(f"{work} (floor: langchain_core's base class and messages, redis)", "Redis", medians)


async def measure(table: Table, contender: Contender, *, quick: bool) -> None:
    seconds = 0.4 if quick else 2.0
    if quick:
        contender.longest = min(contender.longest, 5_000)
    async with AsyncExitStack() as stack:
        await contender.open(stack)
        parts = [appends(table, contender, seconds), reads(table, contender, seconds)]
        parts += [rewrites(table, contender, seconds)] if contender.theirs_rewrites else []
        for part in [*parts, bursts(table, contender, 5 * seconds), connections(table, contender)]:
            try:
                await part
            except Exception as error:  # noqa: BLE001  # the others can be measured all the same
                table.add(part.__name__, contender.name, ours=f"failed: {type(error).__name__}", met=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", help=f"some of {','.join(CONTENDERS)},imports", default=",".join([*CONTENDERS, "imports"])
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, shorter histories")
    options = parser.parse_args()
    chosen = options.only.split(",")
    random.seed(1)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in (*PACKAGES, *DRIVERS))
    print(f"Python {platform.python_version()}, {versions}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    table, used, notes = Table(), [], []
    begin = time.monotonic()
    for name, kind in CONTENDERS.items():
        if name in chosen:
            with tempfile.TemporaryDirectory() as folder:
                contender = kind(Path(folder))
                try:
                    with contender.serving() as contender.server:
                        used += [contender.server.version] if contender.server else []
                        notes += [kind.note] if kind.note else []
                        asyncio.run(measure(table, contender, quick=options.quick))
                except ServerUnavailable as error:
                    table.add("all", contender.name, ours=f"left out: {error}", met=False)
    if "imports" in chosen:
        with tempfile.TemporaryDirectory() as folder:
            imports(table, 3 if options.quick else 9, folder)
    print("".join(f"\n{note}\n" for note in notes))
    print(f"Servers on this machine: {', '.join(used) or 'none'}. {time.monotonic() - begin:.0f} s in all.")


if __name__ == "__main__":
    main()
