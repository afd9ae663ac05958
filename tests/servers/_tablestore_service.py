"""A stand-in for Alibaba Tablestore: the part of its HTTP protocol that the SDK's clients need for rows and tables.

The SDK's own clients talk to it, with their own encoding, signatures and retries. Requests are parsed with the SDK's
protocol buffers; PlainBuffer, the form of rows and conditions, is read here. What it knows of the service is from the
service's documentation, not from the service.

Like the service it: checks signatures and signs its answers; numbers auto-increment columns upwards, with gaps, per
partition key; compares keys byte by byte; leaves out of an answer the rows that have none of the asked columns; ends a
page of GetRange at 5,000 rows or 4 MB; and refuses what is over its limits. Each request is one SQLite transaction.

`POST /-/faults` with `{"api", "code", "status", "times", "after"}` makes the next calls of an API fail: before they do
anything, or after it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import pickle
import random
import re
import sqlite3
import struct
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web
from tablestore.auth import RequestContext, SignV2, SignV4
from tablestore.credentials import Credentials
from tablestore.plainbuffer.plain_buffer_builder import PlainBufferBuilder
from tablestore.protobuf import table_store_filter_pb2 as filter_pb
from tablestore.protobuf import table_store_pb2 as pb

MB = 1024 * 1024
INF_MIN, INF_MAX, AUTO = object(), object(), object()
PUT, DELETE_ALL, DELETE_ONE, INCREMENT = 0, 1, 3, 4
TABLE_API = {"CreateTable", "DeleteTable", "DescribeTable", "ListTable"}

Cell = tuple[str, Any, int]


class ServiceError(Exception):
    """An error as the service answers it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(code)
        self.status, self.code, self.message = status, code, message


def refusal(status: int, code: str, message: str) -> tuple[int, bytes]:
    return status, pb.Error(code=code, message=message).SerializeToString()


def invalid(message: str) -> ServiceError:
    return ServiceError(400, "OTSParameterInvalid", message)


class PlainBuffer:
    """Reads rows in the service's binary form."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 4

    def take(self, form: str) -> Any:
        (value,) = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return value

    def text(self) -> bytes:
        size = self.take("i")
        self.at += size
        return self.data[self.at - size : self.at]

    def variant(self) -> Any:  # noqa: PLR0911  # one for each type
        match self.take("b"):
            case 0x0:
                return self.take("q")
            case 0x1:
                return self.take("d")
            case 0x2:
                return self.take("?")
            case 0x3:
                return self.text().decode()
            case 0x7:
                return bytearray(self.text())
            case 0x9:
                return INF_MIN
            case 0xA:
                return INF_MAX
            case 0xB:
                return AUTO
        raise invalid("unknown type of value")

    def cell(self) -> Cell:
        name, value, operation = "", None, PUT
        while (tag := self.take("b")) != 0xA:
            match tag:
                case 0x4:
                    name = self.text().decode()
                case 0x5:
                    self.take("i")
                    value = self.variant()
                case 0x6:
                    operation = self.take("b")
                case 0x7:
                    self.take("q")
        self.take("B")
        return name, value, operation

    def row(self) -> tuple[list[Cell], list[Cell]]:
        """Primary key and columns."""
        parts: dict[int, list[Cell]] = {1: [], 2: []}
        part = 0
        while (tag := self.take("b")) != 0x9:
            if tag == 0x3:
                parts[part].append(self.cell())
            elif tag in parts:
                part = tag
        return parts[1], parts[2]


def order_key(values: list[Any]) -> bytes:
    """Bytes that sort as the primary key does."""
    key = b""
    for value in values:
        if value is INF_MIN:
            key += b"\0"
        elif value is INF_MAX:
            key += b"\xff"
        elif isinstance(value, int):
            key += b"\1" + struct.pack(">Q", value + 2**63)
        else:
            data = value.encode() if isinstance(value, str) else bytes(value)
            key += b"\2" + data.replace(b"\0", b"\0\xff") + b"\0\0"
    return key


def holds(condition: bytes, columns: dict[str, Any]) -> bool:  # noqa: PLR0911  # one for each kind
    """Whether the columns of a row meet a condition."""
    outer = filter_pb.Filter.FromString(condition)
    if outer.type == filter_pb.FT_COMPOSITE_COLUMN_VALUE:
        composite = filter_pb.CompositeColumnValueFilter.FromString(outer.filter)
        results = [holds(part.SerializeToString(), columns) for part in composite.sub_filters]
        match composite.combinator:
            case filter_pb.LO_NOT:
                return not results[0]
            case filter_pb.LO_AND:
                return all(results)
        return any(results)
    single = filter_pb.SingleColumnValueFilter.FromString(outer.filter)
    value = columns.get(single.column_name)
    match single.comparator:
        case filter_pb.CT_EXIST:
            return value is not None
        case filter_pb.CT_NOT_EXIST:
            return value is None
    if value is None:
        return not single.filter_if_missing
    reader = PlainBuffer(single.column_value)
    reader.at = 0
    expected = reader.variant()
    if type(expected) is not type(value):
        return False
    return {
        filter_pb.CT_EQUAL: value == expected,
        filter_pb.CT_NOT_EQUAL: value != expected,
        filter_pb.CT_GREATER_THAN: value > expected,
        filter_pb.CT_GREATER_EQUAL: value >= expected,
        filter_pb.CT_LESS_THAN: value < expected,
        filter_pb.CT_LESS_EQUAL: value <= expected,
    }[single.comparator]


def value_size(value: Any) -> int:
    return len(value.encode()) if isinstance(value, str) else len(value) if isinstance(value, bytearray) else 8


def row_size(row: list[Cell] | dict[str, Any]) -> int:
    cells = row.items() if isinstance(row, dict) else [(name, value) for name, value, _ in row]
    return sum(len(name.encode()) + value_size(value) for name, value in cells if value is not None)


def encoded(key: list[tuple[str, Any]], columns: dict[str, Any], at: int) -> bytes:
    return bytes(PlainBufferBuilder.serialize_for_put_row(key, [(name, value, at) for name, value in columns.items()]))


class Service:
    """Tables and rows in one SQLite file."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.executescript(
            """
            PRAGMA journal_mode = WAL;
            PRAGMA synchronous = OFF;
            CREATE TABLE IF NOT EXISTS tables (name TEXT PRIMARY KEY, request BLOB);
            CREATE TABLE IF NOT EXISTS rows (name TEXT, key BLOB, row BLOB, PRIMARY KEY (name, key)) WITHOUT ROWID;
            CREATE TABLE IF NOT EXISTS numbers (name TEXT, key BLOB, last INTEGER, PRIMARY KEY (name, key));
            """
        )

    def call(self, api: str, body: bytes) -> Any:
        request = getattr(pb, f"{api}Request").FromString(body)
        self.db.execute("BEGIN IMMEDIATE")
        try:
            answer = getattr(self, api)(request)
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")
        return answer

    # Tables.

    def table(self, name: str) -> Any:
        found = self.db.execute("SELECT request FROM tables WHERE name = ?", [name]).fetchone()
        if found is None:
            raise ServiceError(404, "OTSObjectNotExist", "Requested table does not exist.")
        return pb.CreateTableRequest.FromString(found[0])

    def CreateTable(self, request: Any) -> Any:  # noqa: N802
        name = request.table_meta.table_name
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", name):
            raise invalid(f"Invalid table name: '{name}'.")
        keys = request.table_meta.primary_key
        if not 1 <= len(keys) <= 4 or keys[0].HasField("option"):
            raise invalid("Invalid primary key.")
        if request.table_options.time_to_live != -1 and request.table_options.time_to_live < 86400:
            raise invalid("time_to_live should be -1 or at least 86400.")
        if self.db.execute("SELECT 1 FROM tables WHERE name = ?", [name]).fetchone():
            raise ServiceError(409, "OTSObjectAlreadyExist", "Requested table already exists.")
        self.db.execute("INSERT INTO tables VALUES (?, ?)", [name, request.SerializeToString()])
        return pb.CreateTableResponse()

    def DeleteTable(self, request: Any) -> Any:  # noqa: N802
        self.table(request.table_name)
        for table in ("tables", "rows", "numbers"):
            self.db.execute(f"DELETE FROM {table} WHERE name = ?", [request.table_name])
        return pb.DeleteTableResponse()

    def ListTable(self, _: Any) -> Any:  # noqa: N802
        names = self.db.execute("SELECT name FROM tables ORDER BY name").fetchall()
        return pb.ListTableResponse(table_names=[name for (name,) in names])

    def DescribeTable(self, request: Any) -> Any:  # noqa: N802
        table = self.table(request.table_name)
        answer = pb.DescribeTableResponse(table_meta=table.table_meta, table_options=table.table_options)
        answer.reserved_throughput_details.capacity_unit.CopyFrom(table.reserved_throughput.capacity_unit)
        answer.reserved_throughput_details.last_increase_time = 0
        return answer

    # Rows.

    def key_of(self, table: Any, cells: list[Cell]) -> list[Any]:
        schema = table.table_meta.primary_key
        if [name for name, _, _ in cells] != [column.name for column in schema]:
            raise ServiceError(400, "OTSInvalidPK", "Validate PK name fail.")
        for column, (_, value, _) in zip(schema, cells, strict=True):
            kinds = {pb.INTEGER: int, pb.STRING: str, pb.BINARY: bytearray}
            if value not in (INF_MIN, INF_MAX, AUTO) and not isinstance(value, kinds[column.type]):
                raise ServiceError(400, "OTSInvalidPK", "Validate PK type fail.")
            if isinstance(value, str | bytearray) and value_size(value) > 1024:
                raise invalid("The length of primary key column exceeds the MAX length of 1024 bytes.")
            if value is AUTO and not column.HasField("option"):
                raise ServiceError(400, "OTSInvalidPK", "Validate PK type fail.")
        return [value for _, value, _ in cells]

    def get(self, name: str, key: list[Any]) -> dict[str, Any] | None:
        where = [name, order_key(key)]
        found = self.db.execute("SELECT row FROM rows WHERE name = ? AND key = ?", where).fetchone()
        return None if found is None else pickle.loads(found[0])[1]

    def set(self, name: str, key: list[Any], columns: dict[str, Any] | None) -> None:
        if columns is None:
            self.db.execute("DELETE FROM rows WHERE name = ? AND key = ?", [name, order_key(key)])
        else:
            row = pickle.dumps((key, columns))
            self.db.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", [name, order_key(key), row])

    def check(self, condition: Any, row: dict[str, Any] | None) -> None:
        expected = {pb.IGNORE: None, pb.EXPECT_EXIST: True, pb.EXPECT_NOT_EXIST: False}[condition.row_existence]
        if expected not in (None, row is not None) or (
            condition.column_condition and not holds(condition.column_condition, row or {})
        ):
            raise ServiceError(403, "OTSConditionCheckFail", "Condition check failed.")

    def write(self, name: str, change: bytes, condition: Any, content: Any, kind: int) -> bytes:
        """Do one change; return the primary key where it was asked for."""
        table = self.table(name)
        key_cells, cells = PlainBuffer(change).row()
        key = self.key_of(table, key_cells)
        if wrong := [cell for cell, _, _ in cells if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", cell)]:
            raise invalid(f"Invalid column name: '{wrong[0]}'.")
        if len(cells) > 1024 or any(value_size(value) > 2 * MB for _, value, _ in cells if value is not None):
            raise invalid("A row has more than 1024 columns, or a column more than 2097152 bytes.")
        if row_size(key_cells) + row_size(cells) > 4 * MB:
            raise invalid("The total data size of a row exceeds 4194304 bytes.")
        if AUTO in key:
            if kind == pb.DELETE or condition.row_existence != pb.IGNORE:
                raise invalid("An auto-increment column allows no condition on the row's existence.")
            key[key.index(AUTO)] = self.number(name, key[: key.index(AUTO)])
        elif kind == pb.PUT and any(column.HasField("option") for column in table.table_meta.primary_key):
            raise ServiceError(400, "OTSInvalidPK", "The value of an auto-increment column is the service's.")
        row = self.get(name, key)
        self.check(condition, row)
        self.set(name, key, self.after(row, cells, kind))
        if content.return_type != pb.RT_PK:
            return b""
        return encoded([(cell, value) for (cell, _, _), value in zip(key_cells, key, strict=True)], {}, 0)

    def after(self, row: dict[str, Any] | None, cells: list[Cell], kind: int) -> dict[str, Any] | None:
        """The columns of a row after a change."""
        if kind != pb.UPDATE:
            return {cell: value for cell, value, _ in cells} if kind == pb.PUT else None
        columns = dict(row or {})
        for cell, value, operation in cells:
            if operation == PUT:
                columns[cell] = value
            elif operation == INCREMENT:
                columns[cell] = columns.get(cell, 0) + value
            else:
                columns.pop(cell, None)
        return columns

    def number(self, name: str, partition: list[Any]) -> int:
        where = [name, order_key(partition)]
        found = self.db.execute("SELECT last FROM numbers WHERE name = ? AND key = ?", where).fetchone()
        number = max(found[0] if found else 0, int(time.time() * 1e6)) + random.randint(1, 3)
        self.db.execute("INSERT OR REPLACE INTO numbers VALUES (?, ?, ?)", [*where, number])
        return number

    def PutRow(self, request: Any) -> Any:  # noqa: N802
        return self.changed(pb.PutRowResponse(), request, request.row, pb.PUT)

    def UpdateRow(self, request: Any) -> Any:  # noqa: N802
        return self.changed(pb.UpdateRowResponse(), request, request.row_change, pb.UPDATE)

    def DeleteRow(self, request: Any) -> Any:  # noqa: N802
        return self.changed(pb.DeleteRowResponse(), request, request.primary_key, pb.DELETE)

    def changed(self, answer: Any, request: Any, change: bytes, kind: int) -> Any:
        if request.transaction_id:
            raise invalid("Local transactions are not enabled for this table.")
        row = self.write(request.table_name, change, request.condition, request.return_content, kind)
        answer.consumed.capacity_unit.write = 1
        if row:
            answer.row = row
        return answer

    def BatchWriteRow(self, request: Any) -> Any:  # noqa: N802
        rows = [row for table in request.tables for row in table.rows]
        if len(rows) > 200 or sum(len(row.row_change) for row in rows) > 4 * MB:
            raise invalid("Rows count exceeds the upper limit: 200, or their size 4194304 bytes.")
        answer = pb.BatchWriteRowResponse()
        for table in request.tables:
            part = answer.tables.add(table_name=table.table_name)
            for row in table.rows:
                result = part.rows.add(is_ok=True)
                try:
                    written = self.write(table.table_name, row.row_change, row.condition, row.return_content, row.type)
                except ServiceError as error:
                    result.is_ok = False
                    result.error.code, result.error.message = error.code, error.message
                else:
                    result.consumed.capacity_unit.write = 1
                    if written:
                        result.row = written
        return answer

    def GetRow(self, request: Any) -> Any:  # noqa: N802
        table = self.table(request.table_name)
        cells, _ = PlainBuffer(request.primary_key).row()
        row = self.asked(self.get(request.table_name, self.key_of(table, cells)), request)
        answer = pb.GetRowResponse(row=b"")
        answer.consumed.capacity_unit.read = 1
        if row is not None:
            answer.row = encoded([(name, value) for name, value, _ in cells], row, int(time.time() * 1000))
        return answer

    def asked(self, row: dict[str, Any] | None, request: Any) -> dict[str, Any] | None:
        """The asked columns, in the order of their names; `None` where the row has none of them."""
        if len(request.columns_to_get) > 128:
            raise invalid("The number of columns from the request exceeded the limit 128.")
        if row is None:
            return None
        wanted = set(request.columns_to_get)
        found = {name: row[name] for name in sorted(row) if not wanted or name in wanted}
        return None if wanted and not found else found

    def GetRange(self, request: Any) -> Any:  # noqa: N802
        name = request.table_name
        table = self.table(name)
        names = [column.name for column in table.table_meta.primary_key]
        start, stop = (
            order_key(self.key_of(table, PlainBuffer(bound).row()[0]))
            for bound in (request.inclusive_start_primary_key, request.exclusive_end_primary_key)
        )
        backward = request.direction == pb.BACKWARD
        if (start < stop) if backward else (start > stop):
            raise invalid("Begin key must less than end key in FORWARD, and greater in BACKWARD.")
        limit = min(request.limit or 5000, 5000)
        bounds = "key <= ? AND key > ? ORDER BY key DESC" if backward else "key >= ? AND key < ? ORDER BY key"
        query = f"SELECT row FROM rows WHERE name = ? AND {bounds}"
        answer = pb.GetRangeResponse(rows=b"")
        answer.consumed.capacity_unit.read = 1
        found, scanned, at = 0, 0, int(time.time() * 1000)
        buffer = b""
        for (data,) in self.db.execute(query, [name, start, stop]):
            key, columns = pickle.loads(data)
            if found == limit or scanned > 4 * MB:
                answer.next_start_primary_key = encoded(list(zip(names, key, strict=True)), {}, 0)
                break
            row = self.asked(columns, request)
            scanned += row_size(row or {})
            if row is not None:
                plain = encoded(list(zip(names, key, strict=True)), row, at)
                buffer += plain[4:] if buffer else plain
                found += 1
        answer.rows = buffer
        return answer


class Front:
    """The HTTP side: signatures, errors, faults."""

    def __init__(self, service: Service, instance: str, users: dict[str, tuple[str, bool]]) -> None:
        self.service, self.instance, self.users = service, instance, users
        self.faults: list[dict[str, Any]] = []

    async def faulty(self, request: web.Request) -> web.Response:
        self.faults.append(await request.json())
        return web.Response()

    async def serve(self, request: web.Request) -> web.Response:
        body = await request.read()
        api = request.path[1:]
        headers = {name.lower(): value for name, value in request.headers.items()}
        status, answer, secret = 200, b"", ""
        try:
            secret = self.authenticated(request.path, headers, api)
            if hashlib.md5(body).digest() != base64.b64decode(headers["x-ots-contentmd5"]):
                raise invalid("Mismatch between MD5 value of request body and x-ots-contentmd5 in header.")
            fault = next((fault for fault in self.faults if fault["api"] == api), None)
            if fault is not None:
                fault["times"] -= 1
                if not fault["times"]:
                    self.faults.remove(fault)
            if fault is None or fault.get("after"):
                answer = self.service.call(api, body).SerializeToString()
            status, answer = (
                (200, answer) if fault is None else refusal(fault["status"], fault["code"], "As asked for.")
            )
        except ServiceError as error:
            status, answer = refusal(error.status, error.code, error.message)
        return web.Response(status=status, body=answer, headers=self.signed(request.path, headers, answer, secret))

    def authenticated(self, path: str, headers: dict[str, str], api: str) -> str:
        """Return the key that signs the answer."""
        user = headers.get("x-ots-accesskeyid", "")
        if headers.get("x-ots-instancename") != self.instance:
            raise ServiceError(403, "OTSAuthFailed", "The instance is not found.")
        if user not in self.users:
            raise ServiceError(403, "OTSAuthFailed", "The AccessKeyID does not exist.")
        secret, may_manage = self.users[user]
        given = {name: value for name, value in headers.items() if name.startswith("x-ots-")}
        signature = given.pop("x-ots-signature", None) or given.pop("x-ots-signaturev4", "")
        context = RequestContext(Credentials(user, secret))
        region, day = given.get("x-ots-signregion"), given.get("x-ots-signdate")
        signer = SignV4("utf8", region=region, sign_date=day) if region else SignV2("utf8")
        signer.make_request_signature_and_add_headers(path, given, context)
        if signature not in (given.get("x-ots-signature"), given.get("x-ots-signaturev4")):
            raise ServiceError(403, "OTSAuthFailed", "Signature mismatch.")
        key: str = signer.get_signing_key(context)
        if api in TABLE_API and not may_manage:
            raise ServiceError(403, "OTSNoPermissionAccess", "You have no permission to access the requested resource.")
        return key

    def signed(self, path: str, headers: dict[str, str], body: bytes, key: str) -> dict[str, str]:
        answer = {
            "x-ots-contentmd5": base64.b64encode(hashlib.md5(body).digest()).decode(),
            "x-ots-contenttype": "protocol buffer",
            "x-ots-date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "x-ots-requestid": str(uuid.uuid4()),
        }
        if key:
            signature = SignV2("utf8").make_response_signature(path, answer, key)
            answer["Authorization"] = f"OTS {headers['x-ots-accesskeyid']}:{signature}"
        return answer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--instance", required=True)
    parser.add_argument("--users", type=json.loads, required=True, help="id to secret and whether it may manage tables")
    args = parser.parse_args()
    front = Front(Service(args.data), args.instance, args.users)
    app = web.Application(client_max_size=5 * MB)
    app.router.add_post("/-/faults", front.faulty)
    app.router.add_post("/{api}", front.serve)
    web.run_app(app, host=args.host, port=args.port, print=None, access_log=None)


if __name__ == "__main__":
    main()
