"""Histories in Apache Kafka: a topic per session, as LangChain's `KafkaChatMessageHistory` keeps them, or one for all.

A record's value is the JSON of one message, its key the session id. The header `lh` says to which batch it belongs:
`<batch> <index> <size>`. All records of a session are in one partition, and an idempotent producer keeps the order of a
batch there, so a batch is whole when its last record is there and all the others before it. Readers put it at the place
of its last record: that makes batches contiguous, though records of several writers interleave, and what is stored
later is always behind. They leave out a batch without all of its records, which a writer left behind that died or gave
up. A position is the offset of that last record, with the index of the record and the name of the batch.

Records without the header are LangChain's. They are spread over the partitions of a topic, where time orders them;
those of one millisecond have no order between partitions.

In a topic for many sessions a record without a value, a tombstone, stands for `clear`: readers begin behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import heapq
import itertools
import re
import time
import zlib
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from langchain_histories._clients import Clients
from langchain_histories.codec import Row
from langchain_histories.errors import ConfigurationError, RecordTooLargeError, missing_extra
from langchain_histories.history import StoredChatMessageHistory
from langchain_histories.store import Capability, MessageStore, Operation, SessionRow, StoreOptions, check_number

try:
    from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
    from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic  # type: ignore[attr-defined]  # as its docs say

    from langchain_histories.stores.kafka.client import POLL, UNKNOWN_TOPIC, KafkaClient
    from langchain_histories.stores.kafka.log import TIMED_OUT, Entry, Log, Position
except ImportError as error:
    raise missing_extra("kafka") from error

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Unpack

    from langchain_core.messages import BaseMessage

    from langchain_histories.store import SessionId

Start: TypeAlias = Literal["consumed", "beginning", "latest"]

_LEGAL = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_MAX_TOPIC = 249
_MAX_PREFIX = 100
_ESCAPED = "lh-"
_READABLE = 40  # characters of a long session id in the name of its topic
_KNOWN_TOPICS = 10_000
_ATTEMPTS = 5
_FLUSH_TIMEOUT = 5.0
_SERVER = r"(\[[^\]]+\]|[^\[\]:,/]+)(:\d+)?"
_PLACE = r"\d+:\d+\.\d+\.\w*"
_SMALL = 1_000_000 - 10_000  # every broker takes that, unless somebody lowered its limit
_OVERHEAD = 200
_TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
_UNAVAILABLE = frozenset(
    {
        TIMED_OUT,
        KafkaError._MSG_TIMED_OUT,  # noqa: SLF001  # as above
        KafkaError._TRANSPORT,  # noqa: SLF001  # as above
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001  # as above
        KafkaError._RESOLVE,  # noqa: SLF001  # as above
        KafkaError._SSL,  # noqa: SLF001  # as above
        KafkaError._AUTHENTICATION,  # noqa: SLF001  # as above
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    }
)


class KafkaStore(MessageStore[KafkaClient]):
    """Keeps histories in Apache Kafka, or what speaks its protocol.

    Without a topic in the URL each session has a topic of its own, which `clear` deletes. With one, all sessions share
    it: they cost nothing to have, but reading one reads the whole partition it is in, and what `clear` removes from
    sight stays in the topic as long as Kafka retains it. The number of partitions of such a topic must not be changed
    afterwards. Neither kind of topic may be compacted. Records that Kafka's retention removes are gone from the
    histories, oldest first; that is no `ttl`.

    An append returns when all in-sync replicas have the batch. Async methods run the driver in threads.

    Args:
        url: `kafka://[user:password@]host[:9092][,host...][/topic][?option=value...]`. The options are those of
            librdkafka, such as `security.protocol=SASL_SSL`. A user is logged in with SASL PLAIN over TLS unless
            the options say otherwise.
        topic_prefix: What the name of each session's topic starts with. All other topics with this prefix are taken for
            sessions too, so one is needed in a cluster that is not for histories alone.
        partitions: Number of partitions of a topic that is made here. A session is in one of them.
        replication_factor: That of a topic that is made here; `None` for the default of the cluster.
        retention_ms: Milliseconds after which Kafka removes records from a topic that is made here; -1 for never.
        timeout: Seconds after which an answer or a delivery is no longer waited for.
        client_options: More options for librdkafka.
        **options: See `StoreOptions`. There is no `ttl`.
    """

    name = "kafka"
    schemes = ("kafka",)
    driver_errors = (KafkaException,)

    def __init__(
        self,
        url: str,
        *,
        topic_prefix: str = "",
        partitions: int = 1,
        replication_factor: int | None = None,
        retention_ms: int = -1,
        timeout: float = 10.0,
        client_options: dict[str, Any] | None = None,
        **options: Unpack[StoreOptions],
    ) -> None:
        """Keep where to connect to."""
        self.topic, self._config = _parse(url)
        self._config |= client_options or {}
        if len(topic_prefix) > _MAX_PREFIX or not (topic_prefix == "" or _LEGAL.fullmatch(topic_prefix)):
            raise ConfigurationError(
                f"topic_prefix must have at most {_MAX_PREFIX} characters of a-z, A-Z, 0-9, '.', '_', '-', "
                f"not {topic_prefix!r}."
            )
        if self.topic is not None and topic_prefix:
            raise ConfigurationError("Give a topic in the URL or topic_prefix, not both.")
        self.topic_prefix = topic_prefix
        self._partitions = partitions
        self._replication_factor = replication_factor or -1
        self._retention_ms = retention_ms
        self._timeout = timeout
        super().__init__(Clients(connect=self._connect, close=self._close, native=False), url, **options)

    @property
    def capabilities(self) -> Capability:
        """`PERSISTENT` and `SESSIONS`; with a topic per session also `TAIL_READ` and `ERASE`."""
        own = Capability.TAIL_READ | Capability.ERASE if self.topic is None else Capability(0)
        return Capability.PERSISTENT | Capability.SESSIONS | own

    async def _connect(self, native: bool) -> KafkaClient:  # noqa: ARG002  # there is no native one
        try:
            return KafkaClient(self._config, self._timeout)
        except KafkaException as error:
            raise ConfigurationError(f"The driver refuses the options of {self!r}; see the cause.") from error

    async def _close(self, client: KafkaClient) -> None:
        client.close()

    def _unavailable(self, error: Exception) -> bool:
        """Whether the cluster could not be reached, did not answer in time, or refused the credentials."""
        return super()._unavailable(error) or (
            isinstance(error, KafkaException) and error.args[0].code() in _UNAVAILABLE
        )

    # Where sessions are.

    def _topics(self, key: str) -> list[str]:
        """The topics that a session may be in; a new one is in the last.

        Kafka refuses two names that differ in `.` and `_` alone, so the second of such sessions has an escaped one.
        """
        if self.topic is not None:
            return [self.topic]
        names = [self.topic_prefix + _escaped(key, _MAX_TOPIC - len(self.topic_prefix))]
        name = self.topic_prefix + key
        taken = name in (".", "..") or name.startswith("__") or key.startswith(_ESCAPED)
        if _LEGAL.fullmatch(name) and not taken:
            names = [*names, name] if set(key) & set("._") else [name]
        return names

    def _find(self, client: KafkaClient, asked: Any, key: str) -> tuple[str, list[int]] | None:
        """The topic of a session, with the partitions that may have records of it."""
        for topic in self._topics(key):
            if found := client.partitions(asked, topic):
                return topic, found if self.topic is None else [_partition(key, len(found))]
        return None

    def _topic(self, client: KafkaClient, key: str) -> tuple[str, int]:
        """The topic and the partition to write to; the topic is made if need be."""
        place = key if self.topic is None else ""
        if place not in client.topics:
            if len(client.topics) >= _KNOWN_TOPICS:
                client.topics.clear()
            while (found := self._found(client, key)) is None:
                self._make_topic(client, key)
            client.topics[place] = found
        topic, count = client.topics[place]
        return topic, 0 if self.topic is None else _partition(key, count)

    def _found(self, client: KafkaClient, key: str) -> tuple[str, int] | None:
        for topic in self._topics(key):
            if found := client.partitions(client.producer, topic):
                return topic, len(found)
        return None

    def _make_topic(self, client: KafkaClient, key: str) -> None:
        # A cluster's own default could be to compact, which keeps one record of a key.
        config = {"cleanup.policy": "delete", "retention.ms": str(self._retention_ms), "retention.bytes": "-1"}
        for topic in reversed(self._topics(key)):
            new = NewTopic(topic, self._partitions, self._replication_factor, config=config)
            try:
                client.admin.create_topics([new], request_timeout=self._timeout)[topic].result()
            except KafkaException as error:
                code = error.args[0].code()
                if code == KafkaError.TOPIC_EXCEPTION and topic != self._topics(key)[0]:
                    continue
                if code != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
            self._wait(client, topic, there=True)
            return

    def _wait(self, client: KafkaClient, topic: str, *, there: bool) -> None:
        """Wait until the brokers know that a topic was made or deleted."""
        deadline = time.monotonic() + self._timeout
        while bool(client.partitions(client.producer, topic)) != there:
            if time.monotonic() > deadline:
                raise KafkaException(KafkaError(TIMED_OUT))
            client.producer.poll(POLL)

    def count_partitions(self, session_id: str) -> int:
        """The number of partitions that the topic of a session has, or will have."""
        key = self._key(session_id)

        async def body(client: KafkaClient) -> int:
            found = self._found(client, key)
            return self._partitions if found is None else found[1]

        return self._run(Operation("count_partitions", session_id, body))

    # Operations.

    async def _append(self, client: KafkaClient, key: str, rows: Sequence[str]) -> None:
        self._produce(client, key, [row.encode() for row in rows])

    def _produce(self, client: KafkaClient, key: str, values: Sequence[bytes | None]) -> None:
        for attempt in range(_ATTEMPTS):
            topic, partition = self._topic(client, key)
            self._check_size(client, topic, key, values)
            producer = client.producer
            error = client.produce(producer, topic, partition, key, values)
            if error is None:
                return
            if error.code() == KafkaError._FATAL:  # noqa: SLF001  # as above
                client.renew_producer(producer)
            if error.code() in _TOO_LARGE:
                raise RecordTooLargeError(f"A message of session {key!r} is larger than the topic {topic!r} takes.")
            if error.code() not in UNKNOWN_TOPIC or attempt == _ATTEMPTS - 1:
                raise KafkaException(error)
            # Somebody deleted it.
            client.topics.pop(key if self.topic is None else "", None)

    def _check_size(self, client: KafkaClient, topic: str, key: str, values: Sequence[bytes | None]) -> None:
        """Refuse a batch with a record that the broker would refuse when others are stored already."""
        size = max(len(value or b"") for value in values)
        if size <= _SMALL:
            return
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        try:
            described = client.admin.describe_configs([resource], request_timeout=self._timeout)[resource].result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise
            return
        limit = int(described["max.message.bytes"].value)
        if size + len(key.encode()) + _OVERHEAD > limit:
            raise RecordTooLargeError(
                f"A message takes {size} bytes, and max.message.bytes of the topic {topic!r} is {limit}."
            )

    async def _read(
        self,
        client: KafkaClient,
        key: str,
        *,
        last: int | None = None,
        first: int | None = None,
        after: str | None = None,
    ) -> Sequence[Row]:
        seen = _positions(after)
        tail = last if after is None else None
        with client.consumer() as consumer:
            for attempt in range(_ATTEMPTS):
                found = self._find(client, consumer, key)
                if found is None:
                    return []
                try:
                    entries = self._entries(consumer, *found, key, seen, first, tail)
                    break
                except KafkaException as error:
                    # Perhaps others have deleted the topic meanwhile, and a broker that is down does not tell the next
                    # time what there is.
                    attempts = {TIMED_OUT: 2, **dict.fromkeys(UNKNOWN_TOPIC, _ATTEMPTS)}
                    if attempt + 1 >= attempts.get(error.args[0].code(), 0):
                        raise
        rows = list(_merged(entries, seen))
        return rows[:first] if last is None else rows[max(0, len(rows) - last) :]

    def _entries(  # noqa: PLR0917
        self,
        consumer: Consumer,
        topic: str,
        partitions: list[int],
        key: str,
        seen: dict[int, Position],
        first: int | None,
        tail: int | None,
    ) -> dict[int, list[Entry]]:
        only = None if self.topic is None else key
        logs = {
            number: log
            for number in partitions
            if (log := Log(consumer, TopicPartition(topic, number), self._timeout, only)).low < log.high
        }
        if tail is not None and len(logs) == 1:
            return {number: log.tail(tail) for number, log in logs.items()}
        return {number: log.behind(seen.get(number), first) for number, log in logs.items()}

    async def _clear(self, client: KafkaClient, key: str) -> None:
        if self.topic is not None:
            if self._found(client, key):
                self._produce(client, key, [None])
            return
        client.topics.pop(key, None)
        while (found := self._found(client, key)) is not None:
            topic, _ = found
            try:
                client.admin.delete_topics([topic], request_timeout=self._timeout)[topic].result()
            except KafkaException as error:
                if error.args[0].code() not in UNKNOWN_TOPIC:
                    raise
            self._wait(client, topic, there=False)

    async def _sessions(
        self, client: KafkaClient, *, prefix: str, limit: int | None, after: str | None
    ) -> Sequence[SessionRow]:
        """Kafka counts no records of a session, so all sessions of a page are read."""
        found: list[SessionRow] = []
        keys = {key for key in self._keys(client) if key.startswith(prefix)}
        for key in sorted(keys, key=str.encode):
            if (after is not None and key.encode() <= after.encode()) or len(found) == limit:
                continue
            rows = await self._read(client, key)
            if rows:
                found.append(SessionRow(key, len(rows), rows[-1].text))
        return found

    def _keys(self, client: KafkaClient) -> set[str]:
        """The keys of all sessions, and of some that have no records."""
        keys: set[str] = set()
        with client.consumer() as consumer:
            for topic, found in consumer.list_topics(timeout=self._timeout).topics.items():
                name = topic.removeprefix(self.topic_prefix)
                many = topic == self.topic
                own = self.topic is None and topic.startswith(self.topic_prefix) and name and not topic.startswith("__")
                if many or (own and name.startswith(_ESCAPED) and "--" in name):
                    # Only the records say which sessions there are: one of a session with a long id.
                    for number in found.partitions:
                        log = Log(consumer, TopicPartition(topic, number), self._timeout)
                        keys.update(log.keys() if many else itertools.islice(log.keys(), 1))
                elif own:
                    keys.add(_unescaped(name))
        return keys

    def _consuming(
        self, session_id: str, start: Start, count: int | None, seconds: float | None
    ) -> Operation[KafkaClient, list[BaseMessage]]:
        """What LangChain's readers do: go on where the consumer group of this session stopped, and move it."""
        key = self._key(session_id)
        check_number("max_message_count", count)
        deadline = time.monotonic() + (seconds or 0)

        async def body(client: KafkaClient) -> list[BaseMessage]:
            seen: dict[int, Position] | None = None
            with contextlib.closing(client.new_consumer(self._topics(key)[-1])) as consumer:
                while True:
                    topic, partitions = self._find(client, consumer, key) or ("", [])
                    logs = {n: Log(consumer, TopicPartition(topic, n), self._timeout) for n in partitions}
                    if seen is None:
                        seen = _begin(consumer, topic, logs, start, self._timeout)
                    entries = {number: log.behind(seen.get(number), count) for number, log in logs.items()}
                    rows = list(_merged(entries, seen))[:count]
                    late = count is None if seconds is None else time.monotonic() >= deadline
                    if start != "latest" or late or len(rows) == count:
                        break
                    client.producer.poll(POLL)
                messages = self.format.decode_messages(rows, session_id)
                if rows:
                    _commit(consumer, topic, entries, _positions(rows[-1].position))
                return messages

        return Operation("read", session_id, body)

    async def _erase(self, client: KafkaClient, prefix: str) -> int:
        if self.topic is not None:
            raise self._unsupported("erase")
        keys = [key for key in self._keys(client) if key.startswith(prefix)]
        for key in keys:
            await self._clear(client, key)
        return len(keys)


class KafkaChatMessageHistory(StoredChatMessageHistory):
    """A history in a topic of its own with the constructor and the readers of LangChain's class of this name.

    As there, `messages` and the three methods beside it are a consumer's: they go on from the last message consumed by
    any history of this session, wherever it runs, and return 5 messages by default. They return when they have come to
    the end of the topic, and do not wait until the time is over. For chains and agents, which need the whole
    conversation each time, use `open_history("kafka://...", session_id)`, or `get_messages` here.

    All histories of one configuration in a process share their clients. The topic is made by the first addition.

    Args:
        session_id: The session; the name of its topic, and of the consumer group.
        bootstrap_servers: `host:port`, several of them separated by commas.
        ttl_ms: Milliseconds after which Kafka removes a message, if the topic is made here; -1 for never.
        replication_factor: That of the topic, if it is made here.
        partition: Number of its partitions, if it is made here. What is added here goes to one of them.
        client_options: Options for librdkafka, such as `{"security.protocol": "SSL"}`.
    """

    store: KafkaStore

    def __init__(
        self,
        session_id: SessionId,
        bootstrap_servers: str,
        ttl_ms: int = 604_800_000,
        replication_factor: int = 1,
        partition: int = 3,
        *,
        client_options: dict[str, Any] | None = None,
    ) -> None:
        """Join the store of this configuration."""
        self.bootstrap_servers = bootstrap_servers
        self._options: dict[str, Any] = {
            "retention_ms": ttl_ms,
            "replication_factor": replication_factor,
            "partitions": partition,
            "client_options": client_options,
        }
        super().__init__(self._store(_FLUSH_TIMEOUT), session_id)
        if self.store.topic is not None:
            raise ConfigurationError("bootstrap_servers is host:port[,host:port...], without a topic.")

    def _store(self, timeout: float) -> KafkaStore:
        return KafkaStore.shared(f"kafka://{self.bootstrap_servers}", timeout=timeout, **self._options)

    @property
    def producer(self) -> Producer:
        """The producer; it is opened when it has not been used yet."""
        return self.store.client.producer

    @property
    def admin_client(self) -> AdminClient:
        """The admin client; it is opened when it has not been used yet."""
        return self.store.client.admin

    @property
    def num_partitions(self) -> int:
        """Number of partitions of the topic, as the cluster has it, or as it will be made."""
        return self.store.count_partitions(self.session_id)

    def add_messages(self, messages: Sequence[BaseMessage], flush_timeout_seconds: float = 5.0) -> None:
        """Add messages: all or nothing, and contiguous.

        Args:
            messages: What to add.
            flush_timeout_seconds: How long to wait until the brokers have them.

        Raises:
            StoreUnavailableError: They were not confirmed in that time.
        """
        self._store(flush_timeout_seconds).append(self.session_id, messages)

    def messages_from_last_consumed(
        self, max_message_count: int | None = 5, max_time_sec: float | None = 5.0
    ) -> list[BaseMessage]:
        """Go on from the last consumed message.

        Args:
            max_message_count: At most so many; `None` for all.
            max_time_sec: Not needed: nobody waits at the end of the topic.
        """
        return self._consume("consumed", max_message_count, max_time_sec)

    def messages_from_beginning(
        self, max_message_count: int | None = 5, max_time_sec: float | None = 5.0
    ) -> list[BaseMessage]:
        """Begin with the first message; `messages` goes on behind the last one returned.

        Args:
            max_message_count: At most so many; `None` for all.
            max_time_sec: Not needed: nobody waits at the end of the topic.
        """
        return self._consume("beginning", max_message_count, max_time_sec)

    def messages_from_latest(
        self, max_message_count: int | None = 5, max_time_sec: float | None = 5.0
    ) -> list[BaseMessage]:
        """Wait for messages that are added from now on.

        Args:
            max_message_count: At most so many; `None` for all that come in the time.
            max_time_sec: How long to wait for them; `None` for as long as it takes. When both are `None` nobody waits.
        """
        return self._consume("latest", max_message_count, max_time_sec)

    def _consume(self, start: Start, count: int | None, seconds: float | None) -> list[BaseMessage]:
        return self.store._run(self.store._consuming(self.session_id, start, count, seconds))  # noqa: SLF001  # its twin

    def _visible(self) -> list[BaseMessage]:
        return self.messages_from_last_consumed()

    async def aget_messages(self, *, last: int | None = None, after: str | None = None) -> list[BaseMessage]:
        """`messages`; with `last` or `after` what `get_messages` returns."""
        if last is not None or after is not None:
            return await super().aget_messages(last=last, after=after)
        return await asyncio.to_thread(self._visible)

    def close(self) -> None:
        """Nothing, as in LangChain's class: the clients are those of all histories. `store.close()` closes them."""


def _begin(consumer: Consumer, topic: str, logs: dict[int, Log], start: Start, timeout: float) -> dict[int, Position]:
    """Where a reader begins in each partition."""
    if start == "latest":
        return {number: Position(log.high - 1, 0, "") for number, log in logs.items() if log.high}
    if start == "beginning" or not logs:
        return {}
    seen: dict[int, Position] = {}
    for found in consumer.committed([TopicPartition(topic, number) for number in logs], timeout=timeout):
        if found.error is not None:
            raise KafkaException(found.error)
        if found.offset > 0:
            # LangChain's class commits an offset of its own beside our old note.
            offset, _, note = (found.metadata or "").partition(" ")
            noted = offset == str(found.offset) and re.fullmatch(_PLACE, note)
            seen |= _positions(note) if noted else {found.partition: Position(found.offset - 1, 0, "")}
    return seen


def _commit(consumer: Consumer, topic: str, entries: dict[int, list[Entry]], seen: dict[int, Position]) -> None:
    """Note how far the group has read: the offset for LangChain's class, and the position for us."""
    offsets = []
    for number, found in entries.items():
        at = seen.get(number)
        if at is None:
            offsets.append(TopicPartition(topic, number, 0))
        elif not at.batch:
            offsets.append(TopicPartition(topic, number, at.offset + 1))
        for entry in found:
            if entry.position == at:
                note = f"{entry.offset + 1} {number}:{at.offset}.{at.place}.{at.batch}"
                offsets.append(TopicPartition(topic, number, entry.offset + 1, note))
    if offsets:
        consumer.commit(offsets=offsets, asynchronous=False)


def _partition(key: str, count: int) -> int:
    """The partition of a session: where the driver's own partitioner would put the key."""
    return zlib.crc32(key.encode()) % count


def _merged(entries: dict[int, list[Entry]], seen: dict[int, Position]) -> Iterator[Row]:
    """Merge partitions by time, each in its own order; a row's position says how far all of them are read."""
    lists = [[(number, entry) for entry in found] for number, found in entries.items()]
    seen = dict(seen)
    for number, entry in heapq.merge(*lists, key=lambda item: item[1].timestamp):
        seen[number] = entry.position
        places = (f"{place}:{at.offset}.{at.place}.{at.batch}" for place, at in sorted(seen.items()))
        yield Row(entry.text, ",".join(places))


def _positions(after: str | None) -> dict[int, Position]:
    """Read what `_merged` wrote.

    Raises:
        ConfigurationError: It is something else.
    """
    if after is None:
        return {}
    if not isinstance(after, str) or not re.fullmatch(rf"{_PLACE}(,{_PLACE})*", after):
        raise ConfigurationError(f"after must be the position of a record of this store, not {after!r}.")
    seen = {}
    for place in after.split(","):
        number, _, at = place.partition(":")
        offset, index, batch = at.split(".")
        seen[int(number)] = Position(int(offset), int(index), batch)
    return seen


def _parse(url: str) -> tuple[str | None, dict[str, Any]]:
    """The topic and the options of a URL.

    Raises:
        ConfigurationError: It cannot be used.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigurationError("A Kafka URL has an IPv6 address in brackets: kafka://[::1]:9092.") from None
    login, _, servers = parts.netloc.rpartition("@")
    topic = unquote(parts.path.strip("/")) or None
    more = parse_qsl(parts.query, keep_blank_values=True)
    # What does not look like its place could be a part of the password, so it is not shown.
    if (
        parts.scheme != "kafka"
        or not re.fullmatch(rf"{_SERVER}(,{_SERVER})*", servers)
        or parts.fragment
        or not (topic is None or _LEGAL.fullmatch(topic))
        or not all(re.fullmatch(r"[a-z0-9._]+", name) for name, _ in more)
    ):
        raise ConfigurationError(
            "A Kafka URL is kafka://[user:password@]host[:9092][,host...][/topic][?option=value], with '/', '?', '#' "
            "and '@' in the password percent-escaped."
        )
    config: dict[str, Any] = {"bootstrap.servers": servers}
    if login:
        user, _, password = login.partition(":")
        config |= {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "PLAIN",
            "sasl.username": unquote(user),
            "sasl.password": unquote(password),
        }
    return topic, config | dict(more)


def _escaped(key: str, room: int) -> str:
    """A name for any session id. It has no `.`, and no two ids have the same.

    A long one ends with a hash in place of the rest; its records have the id as their key.
    """
    safe = re.sub(rb"[^a-zA-Z0-9_]", lambda byte: b"-%02X" % byte[0][0], key.encode()).decode()
    name = _ESCAPED + safe
    if len(name) <= room:
        return name
    return f"{_ESCAPED}{safe[:_READABLE]}--{hashlib.sha256(key.encode()).hexdigest()}"


def _unescaped(name: str) -> str:
    if not name.startswith(_ESCAPED):
        return name
    escaped = name.removeprefix(_ESCAPED).encode()
    text = re.sub(rb"-([0-9A-F]{2})", lambda match: bytes([int(match[1], 16)]), escaped)
    return text.decode("utf-8", "replace")
