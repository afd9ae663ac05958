"""A stand-in for Azure Cosmos DB's NoSQL service: the part of its REST protocol that histories use.

Run as a program. It was written from the public REST documentation and from what the `azure-cosmos` driver sends; it is
not Microsoft's code, and says nothing about the service's speed. Everything is in one SQLite file.

As documented: databases and containers; documents with ETags, `If-Match` and `If-None-Match`; point reads, upserts,
replacements and deletions; the SQL forms `SELECT [TOP n] * or c.a, c.b FROM c [WHERE c.a = @x AND c.b >= @y AND
STARTSWITH(c.c, @z)] [ORDER BY c.a [DESC]]` with continuations; transactional batches, rolled back when an operation
fails; patches that append to an array or set a field, at most 10 changes in one; partition keys taken from the document and compared with the header; time to live; at most 2 MB in a document and
in a batch, 100 operations in a batch, 4 MB in an answer; numbers that are doubles; signatures that are checked, and
keys that may only read; session tokens.

Unlike the service it is never slow and has one partition range. To find programs that rely on luck it is mean where the
service may be: a read of one partition that brings no session token, or an old one, does not see the last change there;
a token of more than there is, as that of another container, is refused; what the service does now and then, it always
does. Batches see everything: like all writes they run on the primary.
A query of all partitions sees everything here.

`POST .../colls/<container>/_split` gives the partition range another number. `POST /_faults` takes a JSON list of what to do with the next requests for documents: `{"status": 429, "headers": {}}`
answers so; with `"after": true` only after the request was carried out; status 0 cuts the connection.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import hmac
import json
import re
import sqlite3
import time
import uuid
from typing import Any
from urllib.parse import unquote

from aiohttp import web

MAX_DOCUMENT = 2 * 2**20
MAX_OPERATIONS = 100
MAX_CHANGES = 10
MAX_ANSWER = 4 * 2**20
PAGE = 100
EXACT = 2**53

SCHEMA = """
CREATE TABLE IF NOT EXISTS databases (name TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS containers (path TEXT PRIMARY KEY, definition TEXT, lsn INTEGER);
CREATE TABLE IF NOT EXISTS documents (
    container TEXT, partition TEXT, id TEXT, body TEXT, changed REAL, PRIMARY KEY (container, partition, id)
);
"""


class Refused(Exception):  # noqa: N818
    """An answer that is no success."""

    def __init__(self, status: int, message: str = "", substatus: int = 0) -> None:
        super().__init__(message)
        self.status, self.message, self.substatus = status, message, substatus


def as_doubles(value: Any) -> Any:
    """What is left of JSON data in a service whose numbers are doubles."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) <= EXACT else float(value)
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) <= EXACT else value
    if isinstance(value, list):
        return [as_doubles(item) for item in value]
    if isinstance(value, dict):
        return {key: as_doubles(item) for key, item in value.items()}
    return value


_LIVE = re.compile(
    r"FROM c WHERE IS_ARRAY\(c\.(\w+)\) AND \(NOT IS_DEFINED\(c\.(\w+)\) OR c\.(\w+) > ([\d.]+)\)", re.IGNORECASE
)


def patched(old: dict[str, Any], operations: list[dict[str, Any]], condition: str | None = None) -> dict[str, Any]:
    """The document after `add` to the end of an array, and `set` of a field; on a condition of one form."""
    if len(operations) > MAX_CHANGES:
        raise Refused(400, "The number of patch operations can't exceed '10'.")
    if condition is not None:
        if not (form := _LIVE.fullmatch(condition)):
            raise Refused(400, "Syntax error in the condition")
        array, present, compared, number = form.groups()
        holds = present not in old or (type(old[compared]) in (int, float) and old[compared] > float(number))
        if not (isinstance(old.get(array), list) and holds):
            raise Refused(412, "One of the specified pre-condition is not met")
    new = dict(old)
    for operation in operations:
        kind, field = operation["op"], operation["path"].removeprefix("/")
        if kind == "set" and "/" not in field:
            new[field] = operation["value"]
        elif kind == "add" and field.endswith("/-") and isinstance(new.get(field[:-2]), list):
            new[field[:-2]] = [*new[field[:-2]], operation["value"]]
        else:
            raise Refused(400, "no such patch here, or the path does not exist")
    return new


class Container:
    """One container: its documents and the last change of each partition."""

    def __init__(self, file: sqlite3.Connection, path: str) -> None:
        row = file.execute("SELECT definition, lsn FROM containers WHERE path = ?", [path]).fetchone()
        if row is None:
            raise Refused(404, f"container {path} not found", 1003)
        self.file, self.path, self.definition, self.lsn = file, path, json.loads(row[0]), row[1]
        self.undo: dict[str, tuple[int, dict[str, dict[str, Any] | None]]] = {}
        self.range = 0
        self.partition_path = self.definition["partitionKey"]["paths"][0].strip("/")

    def partition_of(self, body: dict[str, Any]) -> str:
        return json.dumps([body[self.partition_path]] if self.partition_path in body else [{}])

    def expired(self, body: dict[str, Any], changed: float) -> bool:
        default = self.definition.get("defaultTtl")
        ttl = None if default is None else body.get("ttl", default)
        return ttl is not None and ttl != -1 and changed + ttl <= time.time()

    def get(self, partition: str, id_: str) -> dict[str, Any] | None:
        row = self.file.execute(
            "SELECT body, changed FROM documents WHERE container = ? AND partition = ? AND id = ?",
            [self.path, partition, id_],
        ).fetchone()
        if row is None:
            return None
        body = json.loads(row[0])
        return None if self.expired(body, row[1]) else body

    def documents(self, partition: str | None) -> list[dict[str, Any]]:
        where, values = ("", []) if partition is None else (" AND partition = ?", [partition])
        rows = self.file.execute(
            f"SELECT body, changed FROM documents WHERE container = ?{where} ORDER BY partition, id",
            [self.path, *values],
        )
        found = [(json.loads(text), changed) for text, changed in rows]
        return [body for body, changed in found if not self.expired(body, changed)]

    def replica(self, partition: str, lsn: int) -> dict[str, dict[str, Any] | None]:
        """What a replica that has come to `lsn` and no further knows otherwise in this partition."""
        changed_at, undo = self.undo.get(partition, (0, {}))
        return undo if changed_at > lsn else {}

    def change(self, partition: str, changes: dict[str, dict[str, Any] | None]) -> None:
        """Store documents, or remove them, as one commit."""
        self.lsn += 1
        self.undo[partition] = (self.lsn, {id_: self.get(partition, id_) for id_ in changes})
        key = [self.path, partition]
        for id_, body in changes.items():
            if body is None:
                self.file.execute("DELETE FROM documents WHERE container = ? AND partition = ? AND id = ?", [*key, id_])
            else:
                values = [*key, id_, json.dumps(body), body["_ts"]]
                self.file.execute("INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?)", values)
        self.file.execute("UPDATE containers SET lsn = ? WHERE path = ?", [self.lsn, self.path])
        self.file.commit()

    def stored(self, body: dict[str, Any]) -> dict[str, Any]:
        """The document as the service keeps it."""
        if not isinstance(body.get("id"), str) or not body["id"]:
            raise Refused(400, "id must be a non-empty string")
        if set("/\\?#") & set(body["id"]) or len(body["id"].encode()) > 1023:
            raise Refused(400, "id has illegal characters, or is longer than 1023 bytes")
        if len(json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")) > MAX_DOCUMENT:
            raise Refused(413, "Request size is too large")
        ttl = body.get("ttl")
        if ttl is not None and (not isinstance(ttl, int) or (ttl <= 0 and ttl != -1)):
            raise Refused(400, "The input ttl is invalid")
        rid = hashlib.sha256(f"{self.path} {body['id']}".encode()).digest()[:8]
        system = {
            "_rid": base64.b64encode(self.rid_bytes + rid).decode(),
            "_self": f"dbs/{self.definition['_rid'][:6]}==/colls/{self.definition['_rid']}/docs/x==/",
            "_etag": f'"{uuid.uuid4()}"',
            "_attachments": "attachments/",
            "_ts": int(time.time()),
        }
        return {**as_doubles(body), **system}

    @property
    def rid_bytes(self) -> bytes:
        return base64.b64decode(self.definition["_rid"])


class Batch:
    """Operations on one partition; they see each other, and are committed together."""

    def __init__(self, container: Container, partition: str) -> None:
        self.container, self.partition = container, partition
        self.changes: dict[str, dict[str, Any] | None] = {}

    def get(self, id_: str) -> dict[str, Any] | None:
        return self.changes[id_] if id_ in self.changes else self.container.get(self.partition, id_)

    def run(
        self,
        kind: str,
        id_: str | None,
        body: dict[str, Any] | None = None,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> tuple[int, dict[str, Any] | None]:
        """Carry out one operation; return its status and the document."""
        id_ = id_ if body is None or kind in ("Replace", "Patch") else body.get("id")
        old = self.get(str(id_))
        self.check(kind, old, if_match, if_none_match)
        if kind == "Read":
            return 200, old
        if kind == "Delete":
            self.changes[str(id_)] = None
            return 204, None
        if kind == "Patch" and old is not None:
            kind, body = "Replace", patched(old, **(body or {}))
        if kind not in ("Create", "Upsert", "Replace") or body is None:
            raise Refused(400, f"no operation {kind} here")
        if self.container.partition_of(body) != self.partition:
            raise Refused(
                400, "PartitionKey extracted from document doesn't match the one specified in the header", 1001
            )
        new = self.container.stored(body)
        if kind == "Replace" and new["id"] != id_:
            raise Refused(400, "the id of a document cannot be replaced")
        self.changes[new["id"]] = new
        return 200 if old is not None else 201, new

    def check(self, kind: str, old: dict[str, Any] | None, if_match: str | None, if_none_match: str | None) -> None:
        """Refuse an operation on a document that is missing, or is not as it should be."""
        if kind == "Create" and old is not None:
            raise Refused(409, "Entity with the specified id already exists in the system.")
        if kind in ("Read", "Replace", "Delete", "Patch") and old is None:
            raise Refused(404, "Entity with the specified id does not exist in the system.")
        if old is not None and if_match not in (None, "*", old["_etag"]):
            raise Refused(412, "One of the specified pre-condition is not met")
        if old is not None and if_none_match is not None and if_none_match in ("*", old["_etag"]):
            raise Refused(304 if kind == "Read" else 412, "One of the specified pre-condition is not met")

    def commit(self) -> None:
        if self.changes:
            self.container.change(self.partition, self.changes)


_QUERY = re.compile(
    r"\s*SELECT\s+(?:TOP\s+(?P<top>\d+)\s+)?(?P<fields>\*|c\.\w+(?:\s*,\s*c\.\w+)*)\s+FROM\s+c"
    r"(?:\s+WHERE\s+(?P<where>.*?))?(?:\s+ORDER\s+BY\s+c\.(?P<order>\w+)(?:\s+(?P<direction>ASC|DESC))?)?\s*$",
    re.IGNORECASE | re.DOTALL,
)
_COMPARISON = re.compile(r"\s*c\.(\w+)\s*(=|!=|<=|>=|<|>)\s*(@\w+|'[^']*')\s*$")
_STARTSWITH = re.compile(r"\s*STARTSWITH\(\s*c\.(\w+)\s*,\s*(@\w+)\s*\)\s*$", re.IGNORECASE)
_OPERATORS: dict[str, Any] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
}


class Query:
    """A query of the forms named above."""

    def __init__(self, text: str, parameters: list[dict[str, Any]]) -> None:
        match = _QUERY.match(text)
        if match is None:
            raise Refused(400, "Syntax error")
        values = {parameter["name"]: parameter["value"] for parameter in parameters}
        self.top = None if match["top"] is None else int(match["top"])
        self.fields = None if match["fields"] == "*" else re.findall(r"c\.(\w+)", match["fields"])
        self.order, self.descending = match["order"], (match["direction"] or "").upper() == "DESC"
        self.conditions = []
        for part in re.split(r"\s+AND\s+", match["where"] or "", flags=re.IGNORECASE):
            if not part.strip():
                continue
            if found := _STARTSWITH.match(part):
                self.conditions.append((found[1], str.startswith, values[found[2]]))
            elif found := _COMPARISON.match(part):
                value = values[found[3]] if found[3].startswith("@") else found[3][1:-1]
                self.conditions.append((found[1], _OPERATORS[found[2]], value))
            else:
                raise Refused(400, "Syntax error in WHERE")

    def matches(self, document: dict[str, Any]) -> bool:
        return all(
            field in document and type(document[field]) is type(value) and holds(document[field], value)
            for field, holds, value in self.conditions
        )

    def run(self, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = [document for document in documents if self.matches(document)]
        if self.order:
            found = [document for document in found if self.order in document]
            found.sort(key=lambda document: document[self.order], reverse=self.descending)
        return found[: self.top]

    def shown(self, document: dict[str, Any]) -> dict[str, Any]:
        if self.fields is None:
            return document
        return {field: document[field] for field in self.fields if field in document}


class Service:
    """The account."""

    def __init__(self, url: str, file: str, keys: dict[str, bool]) -> None:
        self.url, self.keys = url, keys
        self.file = sqlite3.connect(file)
        self.file.execute("PRAGMA journal_mode = WAL")
        self.file.execute("PRAGMA synchronous = OFF")
        self.file.executescript(SCHEMA)
        self.containers: dict[str, Container] = {}
        self.faults: list[dict[str, Any]] = []

    # Requests.

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/_faults":
            self.faults = await request.json()
            return web.json_response(self.faults)
        if request.path.endswith("/_split"):
            self.containers[request.path.strip("/").removesuffix("/_split")].range += 1
            return web.json_response({})
        body = await request.read()
        parts = [unquote(part) for part in request.rel_url.raw_path.split("/") if part]
        fault = self.faults.pop(0) if self.faults and "docs" in parts else {}
        try:
            self.authorize(request, parts)
            if fault and not fault.get("after"):
                return self.faulty(request, fault)
            answer = self.answer(request, parts, json.loads(body) if body else None)
        except Refused as refused:
            answer = (refused.status, {"code": str(refused.status), "message": refused.message}, {})
            if refused.substatus:
                answer[2]["x-ms-substatus"] = str(refused.substatus)
        if fault:
            return self.faulty(request, fault)
        status, result, headers = answer
        headers = {"x-ms-activity-id": str(uuid.uuid4()), "x-ms-request-charge": "1", **headers}
        if result is None:
            return web.Response(status=status, headers=headers)
        text = json.dumps(result)
        if self.secrets_in(text):
            raise RuntimeError("a key in an answer")
        return web.Response(status=status, headers=headers, text=text, content_type="application/json")

    def secrets_in(self, text: str) -> bool:
        return any(key in text for key in self.keys)

    def faulty(self, request: web.Request, fault: dict[str, Any]) -> web.StreamResponse:
        if fault["status"] == 0:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError
        message = json.dumps({"code": str(fault["status"]), "message": "asked for by the tests"})
        return web.Response(status=fault["status"], headers=fault.get("headers"), text=message)

    def authorize(self, request: web.Request, parts: list[str]) -> None:
        """Check the signature, and that a key that may only read does not write."""
        # The type of what is concerned, and the path to it, or to what it is in.
        kind = "" if not parts else parts[-1] if len(parts) % 2 else parts[-2]
        link = "/".join(parts if len(parts) % 2 == 0 else parts[:-1])
        text = f"{request.method.lower()}\n{kind}\n{link}\n{request.headers.get('x-ms-date', '').lower()}\n\n"
        given = unquote(request.headers.get("authorization", ""))
        for key, readonly in self.keys.items():
            digest = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
            if hmac.compare_digest(given, f"type=master&ver=1.0&sig={base64.b64encode(digest).decode()}"):
                reads = request.method == "GET" or "x-ms-documentdb-isquery" in request.headers
                reads = reads or "x-ms-documentdb-query" in request.headers
                if readonly and not reads:
                    raise Refused(403, "The input authorization token can't serve the request: it is read-only")
                return
        raise Refused(401, "The input authorization token can't serve the request.")

    def answer(self, request: web.Request, parts: list[str], body: Any) -> tuple[int, Any, dict[str, str]]:
        match request.method, parts:
            case "GET", []:
                return 200, self.account(), {}
            case "POST", ["dbs"]:
                return self.create_database(body)
            case "GET", ["dbs", name]:
                if not self.file.execute("SELECT 1 FROM databases WHERE name = ?", [name]).fetchone():
                    raise Refused(404, "database not found")
                return 200, self.database(name), {}
            case "POST", ["dbs", name, "colls"]:
                return self.create_container(name, body)
            case "GET", ["dbs", name, "colls"]:
                found = self.file.execute("SELECT definition FROM containers WHERE path LIKE ?", [f"dbs/{name}/%"])
                return 200, {"DocumentCollections": [json.loads(row[0]) for row in found]}, {}
            case _, ["dbs", name, "colls", coll, *rest]:
                return self.in_container(request, f"dbs/{name}/colls/{coll}", rest, body)
        raise Refused(405, f"no {request.method} of this path here")

    def account(self) -> dict[str, Any]:
        locations = [{"name": "here", "databaseAccountEndpoint": self.url}]
        return {
            "_self": "",
            "id": "stand-in",
            "_rid": "stand-in",
            "_dbs": "//dbs/",
            "writableLocations": locations,
            "readableLocations": locations,
            "enableMultipleWriteLocations": False,
            "userConsistencyPolicy": {"defaultConsistencyLevel": "Session"},
            "userReplicationPolicy": {"minReplicaSetSize": 3, "maxReplicasetSize": 4},
            "queryEngineConfiguration": "{}",
        }

    def database(self, name: str) -> dict[str, Any]:
        rid = base64.b64encode(hashlib.sha256(name.encode()).digest()[:4]).decode()
        return {"id": name, "_rid": rid, "_self": f"dbs/{rid}/", "_etag": '"0"', "_colls": "colls/", "_ts": 0}

    def create_database(self, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        try:
            self.file.execute("INSERT INTO databases VALUES (?)", [body["id"]])
        except sqlite3.IntegrityError:
            raise Refused(409, "the database exists") from None
        self.file.commit()
        return 201, self.database(body["id"]), {}

    def create_container(self, database: str, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        if not self.file.execute("SELECT 1 FROM databases WHERE name = ?", [database]).fetchone():
            raise Refused(404, "database not found")
        path = f"dbs/{database}/colls/{body['id']}"
        rid = base64.b64encode(uuid.uuid4().bytes[:8]).decode()
        policy = {"indexingMode": "consistent", "automatic": True, "includedPaths": [{"path": "/*"}]}
        system = {"_rid": rid, "_self": f"dbs/x/colls/{rid}/", "_etag": '"0"', "_docs": "docs/", "_ts": 0}
        definition = {"indexingPolicy": policy, **body, **system}
        try:
            self.file.execute("INSERT INTO containers VALUES (?, ?, 0)", [path, json.dumps(definition)])
        except sqlite3.IntegrityError:
            raise Refused(409, "the container exists") from None
        self.file.commit()
        return 201, definition, {}

    # Documents.

    def in_container(
        self, request: web.Request, path: str, rest: list[str], body: Any
    ) -> tuple[int, Any, dict[str, str]]:
        if path not in self.containers:
            self.containers[path] = Container(self.file, path)
        container = self.containers[path]
        match request.method, rest:
            case "GET", []:
                return 200, container.definition, {}
            case "PUT", []:
                container.definition.update(body)
                self.file.execute(
                    "UPDATE containers SET definition = ? WHERE path = ?", [json.dumps(container.definition), path]
                )
                self.file.commit()
                return 200, container.definition, {}
            case "DELETE", []:
                for table in ("containers WHERE path", "documents WHERE container"):
                    self.file.execute(f"DELETE FROM {table} = ?", [path])
                self.file.commit()
                del self.containers[path]
                return 204, None, {}
            case "GET", ["pkranges"]:
                etag = {"etag": f'"{container.range}"'}
                if request.headers.get("if-none-match") == etag["etag"]:
                    return 304, None, etag
                parents = [str(number) for number in range(container.range)]
                everything = {"id": str(container.range), "minInclusive": "", "maxExclusive": "FF", "status": "online"}
                return 200, {"PartitionKeyRanges": [{**everything, "parents": parents}], "_count": 1}, etag
        given = request.headers.get("x-ms-documentdb-partitionkey")
        partition = None if given is None else json.dumps(json.loads(given))
        status, result, headers = self.with_documents(request, container, partition, rest, body)
        standing = {
            "x-ms-session-token": f"{container.range}:-1#{container.lsn}",
            "x-ms-alt-content-path": path,
            "x-ms-documentdb-partitionkeyrangeid": str(container.range),
            "lsn": str(container.lsn),
        }
        return status, result, {**standing, **headers}

    def with_documents(
        self, request: web.Request, container: Container, partition: str | None, rest: list[str], body: Any
    ) -> tuple[int, Any, dict[str, str]]:
        headers = request.headers
        if "x-ms-documentdb-isquery" in headers or headers.get("content-type") == "application/query+json":
            return self.query(request, container, partition, body)
        if partition is None:
            raise Refused(400, "PartitionKey value must be supplied for this operation.")
        known = self.known_lsn(request, container)
        batch = Batch(container, partition)
        if headers.get("x-ms-cosmos-is-batch-request", "").lower() == "true":
            return self.batch(batch, body, int(headers.get("content-length", 0)))
        if request.method == "GET":
            # From a replica.
            behind = container.replica(partition, known)
            batch.changes = dict(behind)
        kind = {"GET": "Read", "PUT": "Replace", "DELETE": "Delete", "POST": "Create"}[request.method]
        if headers.get("x-ms-documentdb-is-upsert", "").lower() == "true":
            kind = "Upsert"
        status, document = batch.run(
            kind,
            rest[1] if len(rest) > 1 else None,
            body,
            if_match=headers.get("if-match"),
            if_none_match=headers.get("if-none-match"),
        )
        if kind != "Read":
            batch.commit()
        return status, document, {} if document is None else {"etag": document["_etag"]}

    def known_lsn(self, request: web.Request, container: Container) -> int:
        """Up to where a replica must have come to answer this request."""
        found = re.search(r"\d+:-1#(\d+)", request.headers.get("x-ms-session-token", ""))
        known = int(found[1]) if found else 0
        if known > container.lsn:
            raise Refused(404, "The read session is not available for the input session token.", 1002)
        return known

    def batch(self, batch: Batch, operations: list[dict[str, Any]], size: int) -> tuple[int, Any, dict[str, str]]:
        if len(operations) > MAX_OPERATIONS:
            raise Refused(400, "Batch request has more operations than what is supported.")
        if size > MAX_DOCUMENT:
            raise Refused(413, "Request size is too large")
        results: list[dict[str, Any]] = []
        for number, operation in enumerate(operations):
            try:
                status, document = batch.run(
                    operation["operationType"],
                    operation.get("id"),
                    operation.get("resourceBody"),
                    if_match=operation.get("ifMatch"),
                    if_none_match=operation.get("ifNoneMatch"),
                )
            except Refused as refused:
                failed = {"requestCharge": 1.0}
                results = [{"statusCode": 424, **failed} for _ in operations]
                results[number] = {"statusCode": refused.status, "message": refused.message, **failed}
                return 207, results, {}
            result = {"statusCode": status, "requestCharge": 1.0}
            if document is not None:
                result |= {"eTag": document["_etag"], "resourceBody": document}
            results.append(result)
        batch.commit()
        return 200, results, {}

    def query(
        self, request: web.Request, container: Container, partition: str | None, body: dict[str, Any]
    ) -> tuple[int, Any, dict[str, str]]:
        headers = request.headers
        query = Query(body["query"], body.get("parameters", []))
        if partition is None:
            if headers.get("x-ms-documentdb-query-enablecrosspartition", "").lower() != "true":
                raise Refused(400, "Cross partition query is required but disabled.")
            if query.order or query.top is not None:
                raise Refused(400, "this query needs a plan, which the stand-in does not make", 1004)
            documents = container.documents(None)
        else:
            behind = container.replica(partition, self.known_lsn(request, container))
            documents = [document for document in container.documents(partition) if document["id"] not in behind]
            documents += [document for document in behind.values() if document is not None]
            documents.sort(key=lambda document: document["id"])
        found = query.run(documents)
        start = int(base64.b64decode(headers.get("x-ms-continuation", "")) or 0)
        most = int(headers.get("x-ms-max-item-count", PAGE))
        page: list[dict[str, Any]] = []
        size = 0
        for document in found[start:]:
            shown = query.shown(document)
            size += len(json.dumps(shown))
            if len(page) == (PAGE if most <= 0 else most) or (page and size > MAX_ANSWER):
                break
            page.append(shown)
        answer = {"_rid": container.definition["_rid"], "Documents": page, "_count": len(page)}
        end = start + len(page)
        more = {"x-ms-continuation": base64.b64encode(str(end).encode()).decode()} if end < len(found) else {}
        return 200, answer, {"x-ms-item-count": str(len(page)), **more}


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--file", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--readonly-key", required=True)
    options = parser.parse_args()
    service = Service(
        f"http://{options.host}:{options.port}/", options.file, {options.key: False, options.readonly_key: True}
    )
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_route("*", "/{path:.*}", service.handle)
    with contextlib.suppress(KeyboardInterrupt):
        web.run_app(app, host=options.host, port=options.port, print=None, access_log=None, shutdown_timeout=0.1)


if __name__ == "__main__":
    main()
