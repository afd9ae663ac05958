"""One body for both faces: the helpers, and the rule that every store keeps."""

from __future__ import annotations

import ast
import asyncio
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

import langchain_histories
from langchain_histories._neutral import drive, each, entered, settle

STORES = sorted((Path(langchain_histories.__file__).parent / "stores").glob("*.py"))


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


def breaches(source):
    """What a body awaits that is neither a client call nor another body."""

    def name(node):
        call = node.func if isinstance(node, ast.Call) else node
        return ast.unparse(call)

    def allowed(node, helpers):
        return name(node) in helpers or name(node).startswith(("self._", "super()."))

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Await) and not allowed(node.value, ("settle",)):
            yield name(node.value)
        if isinstance(node, ast.AsyncWith):
            yield from (name(item.context_expr) for item in node.items if not allowed(item.context_expr, ("entered",)))
        if isinstance(node, ast.AsyncFor | ast.comprehension) and (isinstance(node, ast.AsyncFor) or node.is_async):
            yield from [] if allowed(node.iter, ("each",)) else [name(node.iter)]


def store_classes(tree):
    return [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Store", "Base", "Operations"))
    ]


@pytest.mark.parametrize("path", STORES, ids=lambda path: path.stem)
def test_stores_await_only_client_calls(path):
    for cls in store_classes(ast.parse(path.read_text())):
        assert list(breaches(ast.unparse(cls))) == []


def test_the_rule_finds_breaches():
    assert list(breaches("async def f(self):\n await asyncio.sleep(1)")) == ["asyncio.sleep"]
    assert list(breaches("async def f(self):\n async with self.lock: pass")) == ["self.lock"]
    assert list(breaches("async def f(self):\n return [x async for x in client.scan()]")) == ["client.scan"]
    assert list(breaches("async def f(self):\n return [x async for x in each(client.scan())]")) == []
