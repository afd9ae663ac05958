"""One body for both faces: the helpers, and the rule that every store keeps."""

from __future__ import annotations

import ast
import asyncio
import functools
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

import langchain_histories
from langchain_histories._neutral import drive, each, entered, settle

STORES = Path(langchain_histories.__file__).parent / "stores"
ROOMS = sorted(STORES.rglob("*.py"))
# Rooms whose code knows which client it is for: what opens clients and connections, and the drop-in classes.
ONE_SIDED = {
    *("connections.py", "engines.py", "waits.py", "psycopg_waits.py", "google.py", "lent_connections.py"),
    *("history.py", "postgres.py"),
}


class Blocking:
    def get(self):
        return 1

    @contextmanager
    def connection(self):
        yield 2

    def items(self):
        return [3, 4]


class Async:
    async def get(self):
        await asyncio.sleep(0)
        return 1

    @asynccontextmanager
    async def connection(self):
        await asyncio.sleep(0)
        yield 2

    async def items(self):
        for item in (3, 4):
            await asyncio.sleep(0)
            yield item


async def body(client):
    first = await settle(client.get())
    async with entered(client.connection()) as second:
        return [first, second, *[item async for item in each(client.items())]]


def test_one_body_over_both_clients():
    assert drive(body(Blocking())) == asyncio.run(body(Async())) == [1, 2, 3, 4]


def test_a_sync_call_works_inside_a_running_loop():
    async def main():
        return drive(body(Blocking()))

    assert asyncio.run(main()) == [1, 2, 3, 4]


def test_an_async_client_in_a_sync_call_is_an_internal_error():
    with pytest.raises(RuntimeError, match="suspended"):
        drive(body(Async()))


def test_errors_pass_through():
    class Failing(Blocking):
        def items(self):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        drive(body(Failing()))


def breaches(node, asyncio_names):
    """What the bodies in a class or module await that is neither a client call nor another body, or use of asyncio."""

    def name(node):
        call = node.func if isinstance(node, ast.Call) else node
        return ast.unparse(call)

    def allowed(node, helpers):
        return name(node) in helpers or name(node).startswith(("self.", "super()."))

    for part in ast.walk(node):
        if isinstance(part, ast.Await) and not allowed(part.value, ("settle", "pause")):
            yield name(part.value)
        if isinstance(part, ast.AsyncWith):
            yield from (name(item.context_expr) for item in part.items if not allowed(item.context_expr, ("entered",)))
        if isinstance(part, ast.AsyncFor | ast.comprehension) and (isinstance(part, ast.AsyncFor) or part.is_async):
            yield from [] if allowed(part.iter, ("each",)) else [name(part.iter)]
        if isinstance(part, ast.Name) and part.id in asyncio_names:
            yield part.id


def names_of_asyncio(tree):
    """What a module calls asyncio, and what it imports from it."""
    for part in ast.walk(tree):
        if isinstance(part, ast.Import):
            yield from (alias.asname or "asyncio" for alias in part.names if alias.name.split(".")[0] == "asyncio")
        if isinstance(part, ast.ImportFrom) and part.module and part.module.split(".")[0] == "asyncio":
            yield from (alias.asname or alias.name for alias in part.names)


def breaches_in(source, *, classes=None):
    """The breaches in a module, or in those of its classes."""
    tree = ast.parse(source)
    names = set(names_of_asyncio(tree))
    parts = [tree] if classes is None else [part for part in tree.body if getattr(part, "name", "") in classes]
    return [breach for part in parts for breach in breaches(part, names)]


@functools.cache
def operations_classes():
    """The names of all classes that are operations, by their bases or by their name."""
    bases = {}
    for path in ROOMS:
        for part in ast.walk(ast.parse(path.read_text())):
            if isinstance(part, ast.ClassDef):
                bases[part.name] = {ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in part.bases}
    found = {"Operations", *(name for name in bases if name.endswith("Operations"))}
    while more := {name for name, of in bases.items() if of & found} - found:
        found |= more
    return found - {"Operations"}


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: str(path.relative_to(STORES)))
def test_stores_await_only_client_calls(path):
    classes = operations_classes() if path.name in ONE_SIDED else None
    assert breaches_in(path.read_text(), classes=classes) == []


def test_the_operations_of_every_service_are_found():
    services = ["Memory", "File", "Redis", "Upstash", "SQL", "MongoDB", "DynamoDB", "CosmosDB", "Kafka", "AzureTable"]
    assert {f"{service}Operations" for service in services} <= operations_classes()
    assert {
        "PartitionOperations",
        "OneItemOperations",
        "ModelOperations",
        "TablestoreOperations",
    } <= operations_classes()


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("await asyncio.sleep(1)", ["asyncio.sleep", "asyncio"]),
        ("await settle(asyncio.sleep(1))", ["asyncio"]),
        ("await settle(sleep(1))", ["sleep"]),
        ("asyncio.create_task(self.read(client))", ["asyncio"]),
        ("await client.get()", ["client.get"]),
        ("async with self.lock: pass", []),
        ("async with client.lock: pass", ["client.lock"]),
        ("return [x async for x in client.scan()]", ["client.scan"]),
        ("return [x async for x in each(client.scan())]", []),
        ("await pause(1, is_async=True)", []),
        ("return await self.read(client)", []),
    ],
)
def test_the_rule_finds_breaches(body, found):
    source = f"import asyncio\nfrom asyncio import sleep\nclass A(Operations):\n async def f(self, client):\n  {body}"
    assert breaches_in(source) == breaches_in(source, classes={"A"}) == found
