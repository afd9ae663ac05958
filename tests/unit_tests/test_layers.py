"""Which module may import which: CONTRIBUTING's table "What imports what", held against the source."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import langchain_histories

PACKAGE = Path(langchain_histories.__file__).parent
CONTRIBUTING = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
OURS = "langchain_histories"
DEPENDENCIES = {"filelock", "langchain_core", "pydantic", "pydantic_core", "typing_extensions"}
# Whose extras are needed from the start.
WITH_EXTRAS = ("integrations.agents", "integrations.langgraph", "integrations.llama_index", "testing")
# `MessageStore.history` imports the class that it returns.
FROM_ABOVE = {("store", "history")}


class Import(NamedTuple):
    importer: str
    imported: str
    is_for_types: bool
    is_in_function: bool


def module_name(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").strip(".")


def imports_of(path):
    """The imports of a file, wherever they stand."""

    def visit(node, for_types, in_function):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [node.module]
            first, *rest = node.module.split(".")
            if first == OURS and PACKAGE.joinpath(*rest).is_dir():
                # A module of the package, unless it is a name in its `__init__`.
                names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = []
            for field, value in ast.iter_fields(node):
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        checked = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
                        yield from visit(
                            child,
                            for_types or (checked and field == "body"),
                            in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef),
                        )
        for name in names:
            yield Import(module_name(path), name, for_types, in_function)

    return list(visit(ast.parse(path.read_text(encoding="utf-8")), for_types=False, in_function=False))


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {module_name(path) for path in FILES}
IMPORTS = [found for path in FILES for found in imports_of(path)]


def table():
    """The rows of CONTRIBUTING's table: which modules, or packages of modules, stand in each."""
    section = CONTRIBUTING.partition("## What imports what")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return [re.findall(r"`([\w.]+)`", cell) for cell in cells]


ROWS = table()


def placed(module):
    """The row of a module, and the entry of the row that it belongs to: the nearest package of it in the table."""
    known = [
        (row, entry)
        for row, entries in enumerate(ROWS)
        for entry in entries
        if module == entry or module.startswith(f"{entry}.")
    ]
    nearest = [found for found in known if len(found[1]) == max(len(entry) for _, entry in known)]
    assert len(nearest) == 1, f"{module} stands {len(nearest)} times in the table of CONTRIBUTING"
    return nearest[0]


def is_ours(name):
    return name.partition(".")[0] == OURS


def our_module(name):
    """The module that an imported name of ours is, or is defined in; "" for a name of the package itself."""
    name = name.removeprefix(OURS).strip(".")
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


OUR_IMPORTS = [found._replace(imported=our_module(found.imported)) for found in IMPORTS if is_ours(found.imported)]


def test_every_module_has_a_row():
    for module in MODULES - {"", "stores"}:
        placed(module)
    for entry in (entry for row in ROWS for entry in row):
        assert entry in MODULES, f"{entry} is in the table of CONTRIBUTING and nowhere else"


def test_a_module_imports_only_what_stands_above_it():
    assert len(OUR_IMPORTS) > 300
    wrong = [
        (importer, imported)
        for importer, imported, is_for_types, _ in OUR_IMPORTS
        if importer and imported and not is_for_types and placed(imported)[0] > placed(importer)[0]
    ]
    assert set(wrong) == FROM_ABOVE


def test_no_service_imports_another():
    services = next(row for row in ROWS if "stores.redis" in row)
    wrong = [
        found
        for found in OUR_IMPORTS
        if found.importer
        and (mine := placed(found.importer)[1]) in services
        and (not found.imported or ((theirs := placed(found.imported)[1]) in services and theirs != mine))
    ]
    assert wrong == []


def test_the_package_itself_imports_nothing_before_it_is_asked():
    eager = [found.imported for found in IMPORTS if found.importer == "" and not found.is_for_types]
    assert set(eager) == {"__future__", "importlib", "typing"}
    # Only the kit, which users import by its own name, imports from the package as they do.
    roots = {found.importer.partition(".")[0] for found in OUR_IMPORTS if not found.imported}
    assert roots <= {"testing"}


def reached(module):
    """The modules that are imported together with one, itself included."""
    known, pending = set(), [module]
    while pending:
        module = pending.pop()
        if module not in known:
            known.add(module)
            parents = [module[:at] for at in range(len(module)) if module[at] == "."]
            pending += parents + [
                found.imported
                for found in OUR_IMPORTS
                if found.importer == module and found.imported and not (found.is_for_types or found.is_in_function)
            ]
    return known


DRIVERS = {
    (found.importer, found.imported)
    for found in IMPORTS
    if not (found.is_for_types or found.is_in_function)
    and found.imported.partition(".")[0] not in sys.stdlib_module_names | DEPENDENCIES | {OURS}
}
HOMES = sorted(set(langchain_histories._HOMES.values()) | {"_schemes", "stores.base", "views", "integrations"})


@pytest.mark.parametrize("home", HOMES)
def test_what_a_public_name_lives_in_imports_no_driver(home):
    modules = reached(home)
    assert [driver for driver in DRIVERS if driver[0] in modules] == []


def test_drivers_are_imported_only_in_the_rooms_of_a_service():
    services = next(row for row in ROWS if "stores.redis" in row)
    rooms = {module for module, _ in DRIVERS if not module.startswith(WITH_EXTRAS)}
    assert len(rooms) > 15
    assert [room for room in rooms if placed(room)[1] not in services] == []
    assert [room for room in rooms if room.rpartition(".")[2] in ("store", "history")] == []
