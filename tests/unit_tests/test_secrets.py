"""No password, token or key is shown, whatever characters it has and whichever form carries it.

Every way to make a store is tried with generated passwords, and what can be seen then is searched: what the objects say
of themselves, errors with all that led to them, log lines and warnings.
"""

from __future__ import annotations

import json
import logging
import string
import traceback
import warnings
from urllib.parse import quote, quote_plus, unquote, unquote_plus

import boto3
import botocore.config
import hypothesis
import pytest
import redis
import sqlalchemy as sa
import tablestore
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage
from redis.backoff import NoBackoff
from redis.retry import Retry

import langchain_histories as lh
from langchain_histories import ConfigurationError, HistoryError, HistoryRegistry, open_history, open_store
from langchain_histories._schemes import store_kind
from langchain_histories.stores.base import Clients, MessageStore, Operations

# A piece of each password, so that a piece of it is found too.
MARK = "Zq9x7"
NOBODY = "127.0.0.1:9"
ACCOUNT = f"DefaultEndpointsProtocol=http;AccountName=acct;TableEndpoint=http://{NOBODY}/acct"

URLS = [
    "redis://user:{}@127.0.0.1:9/0",
    "redis://:{}@127.0.0.1:9",
    "rediss://user:{}@127.0.0.1:9/0?ssl_cert_reqs=none",
    "redis://127.0.0.1:9/0?password={}&db=1",
    "redis+sentinel://user:{}@127.0.0.1:9/service/0",
    "redis+sentinel://user:{}@127.0.0.1:9,127.0.0.1:10/service",
    "unix://user:{}@/tmp/none.sock?db=1",
    "upstash+http://:{}@127.0.0.1:9",
    "upstash+http://127.0.0.1:9?token={}",
    "kafka://user:{}@127.0.0.1:9,127.0.0.1:10/topic",
    "kafka://127.0.0.1:9?sasl.username=u&sasl.password={}",
    "mongodb://user:{}@127.0.0.1:9/db?serverSelectionTimeoutMS=50",
    "mongodb://user:{}@127.0.0.1:9,127.0.0.1:10",
    "postgresql+psycopg://user:{}@127.0.0.1:9/db",
    "postgresql://user:{}@127.0.0.1:9/db?sslmode=disable",
    "postgresql+psycopg://127.0.0.1:9/db?user=u&password={}",
    "postgresql+asyncpg://user:{}@127.0.0.1:9/db",
    "mysql+pymysql://user:{}@127.0.0.1:9/db",
    "mariadb://user:{}@127.0.0.1:9/db?charset=utf8mb4",
    "yugabytedb://user:{}@127.0.0.1:9/db?load_balance=true",
    "alloydb://user:{}@project/region/cluster/instance/db",
    "cloudsql://user:{}@project:region:instance/db?ip_type=private",
    "sqlite://user:{}@host/db",
    "dynamodb://AKIA:{}@eu-west-1/table?endpoint_url=http://127.0.0.1:9",
    "dynamodb://AKIA:key1@eu-west-1/table?aws_session_token={}",
    "azure-table+http://account:{}@127.0.0.1:9/account/table",
    "azure-table://account.table.core.windows.net/table?sv=2019-02-02&sig={}",
    "cosmosdb+http://:{}@127.0.0.1:9/db/container",
    "tablestore+http://id:{}@127.0.0.1:9/instance",
    "memory://user:{}@host",
    "file://user:{}@host/folder",
    "nosuch://user:{}@host",
]
URL_WAYS = {
    "store": open_store,
    "history": lambda url: open_history(url, "s"),
    "registry": lambda url: HistoryRegistry.from_config({"histories": {"a": {"url": url}}}),
}
# Drop-ins that take a URL. The others are below.
URL_DROP_INS = {
    "redis": lambda url: lh.RedisChatMessageHistory("s", url),
    "unix": lambda url: lh.RedisChatMessageHistory("s", url),
    "upstash": lambda url: lh.UpstashRedisChatMessageHistory("s", url),
    "kafka": lambda url: lh.KafkaChatMessageHistory("s", url.partition("//")[2].partition("/")[0]),
    "mongodb": lambda url: lh.MongoDBChatMessageHistory(url, "s"),
    "postgresql": lambda url: lh.PostgresChatMessageHistory(session_id="s", connection_string=url),
    "mysql": lambda url: lh.SQLChatMessageHistory("s", connection=url),
    "azure": lambda url: lh.AzureTableChatMessageHistory("s", url),
    "dynamodb": lambda url: lh.DynamoDBChatMessageHistory(
        "t",
        "s",
        endpoint_url=url.replace("dynamodb", "http"),
        boto3_session=boto3.Session("AKIA", "b", region_name="c"),
    ),
    "cosmosdb": lambda url: lh.CosmosDBChatMessageHistory(url.replace("cosmosdb", "http"), "d", "c", "s", "u", "a2V5"),
    "tablestore": lambda url: lh.TablestoreChatMessageHistory("s", endpoint=url.replace("tablestore", "http")),
}


def libpq(password):
    return "'" + password.replace("\\", "\\\\").replace("'", "\\'") + "'"


# What takes a password as it is.
OPTIONS = {
    "redis options": lambda p: lh.RedisStore(f"redis://{NOBODY}", client_options={"password": p}),
    "redis provider": lambda p: lh.RedisStore(
        f"redis://{NOBODY}",
        client_options={"credential_provider": redis.credentials.UsernamePasswordCredentialProvider("u", p)},
    ),
    "sentinel options": lambda p: lh.RedisStore(
        f"redis+sentinel://{NOBODY}/x", client_options={"sentinel_kwargs": {"password": p}}
    ),
    "upstash token": lambda p: lh.UpstashStore(f"upstash+http://{NOBODY}", token=p),
    "upstash history": lambda p: lh.UpstashRedisChatMessageHistory("s", f"http://{NOBODY}", p),
    "kafka options": lambda p: lh.KafkaStore(
        f"kafka://{NOBODY}", timeout=0.1, client_options={"sasl.password": p, "ssl.key.password": p}
    ),
    "kafka jaas": lambda p: lh.KafkaChatMessageHistory(
        "s", NOBODY, client_options={"sasl.oauthbearer.config": f'principal=u password="{p}"'}
    ),
    "mongodb options": lambda p: lh.MongoDBStore(
        f"mongodb://{NOBODY}", client_options={"username": "u", "password": p, "serverSelectionTimeoutMS": 50}
    ),
    "sql connect_args": lambda p: lh.SQLStore(
        f"postgresql+psycopg://{NOBODY}/d", engine_args={"connect_args": {"password": p}}
    ),
    "sql conninfo": lambda p: lh.SQLStore(
        f"postgresql+psycopg://{NOBODY}/d",
        engine_args={"connect_args": {"conninfo": f"host=127.0.0.1 port=9 password={libpq(p)} dbname=d"}},
    ),
    "sql async_url": lambda p: lh.SQLStore(
        f"postgresql+psycopg://{NOBODY}/d", async_url=f"postgresql+asyncpg://u:{quote(p, safe='')}@{NOBODY}/d"
    ),
    "sql engine": lambda p: lh.SQLStore(
        client=sa.create_engine(sa.URL.create("postgresql+psycopg", "u", p, "127.0.0.1", 9, "d"))
    ),
    "sql history": lambda p: lh.SQLChatMessageHistory(
        "s", connection=f"postgresql+psycopg://{NOBODY}/d", engine_args={"connect_args": {"password": p}}
    ),
    "libpq": lambda p: lh.PostgresChatMessageHistory(
        session_id="s", connection_string=f"host=127.0.0.1 port=9 user=u password={libpq(p)} dbname=d"
    ),
    "libpq, odd": lambda p: lh.PostgresChatMessageHistory(
        session_id="s", connection_string=f"host=127.0.0.1 password={p} dbname=d"
    ),
    "dynamodb options": lambda p: lh.DynamoDBStore(
        "dynamodb:///t",
        client_options={
            "region_name": "eu-west-1",
            "aws_access_key_id": "AKIA",
            "aws_secret_access_key": p,
            "endpoint_url": f"http://{NOBODY}",
        },
    ),
    "dynamodb endpoint": lambda p: lh.DynamoDBChatMessageHistory(
        "t",
        "s",
        endpoint_url=f"http://u:{quote(p, safe='')}@{NOBODY}",
        boto3_session=boto3.Session("AKIA", p, region_name="eu-west-1"),
    ),
    "azure key": lambda p: lh.AzureTableStore(connection_string=f"{ACCOUNT};AccountKey={p}"),
    "azure key, odd": lambda p: lh.AzureTableStore(connection_string=f"AccountKey={p}"),
    "azure signature": lambda p: lh.AzureTableStore(
        connection_string=f"{ACCOUNT};SharedAccessSignature=sv=2019-02-02&sig={quote(p, safe='')}"
    ),
    "azure account": lambda p: lh.AzureTableChatMessageHistory.from_account_and_key("s", "acct", p),
    "azure sas": lambda p: lh.AzureTableChatMessageHistory.from_sas_token("s", f"http://{NOBODY}", f"sv=1&sig={p}"),
    "cosmosdb credential": lambda p: lh.CosmosDBStore(f"cosmosdb+http://{NOBODY}/d/c", credential=p),
    "cosmosdb string": lambda p: lh.CosmosDBStore(
        "cosmosdb:///d/c", connection_string=f"AccountEndpoint=http://{NOBODY}/;AccountKey={p};"
    ),
    "cosmosdb history": lambda p: lh.CosmosDBChatMessageHistory(
        "", "d", "c", "s", "u", connection_string=f"AccountEndpoint=http://{NOBODY}/;AccountKey={p};"
    ),
    "tablestore options": lambda p: lh.TablestoreStore(
        f"tablestore+http://id@{NOBODY}/i", client_options={"access_key_secret": p, "sts_token": p}
    ),
    "tablestore history": lambda p: lh.TablestoreChatMessageHistory("s", None, f"http://{NOBODY}", "i", "id", p),
}
ENVIRONMENT = {
    "upstash": ("UPSTASH_REDIS_REST_TOKEN", "{}", lambda: lh.UpstashStore(f"upstash+http://{NOBODY}")),
    "tablestore": ("TABLESTORE_ACCESS_KEY_SECRET", "{}", lambda: lh.TablestoreStore(f"tablestore+http://{NOBODY}/i")),
    "azure": (
        "AZURE_STORAGE_CONNECTION_STRING",
        ACCOUNT + ";AccountKey={}",
        lambda: lh.AzureTableStore("azure-table:///t"),
    ),
    "registry": ("LANGCHAIN_HISTORIES_URL", "redis://u:{}@127.0.0.1:9", HistoryRegistry.from_config),
}

_texts = st.text(string.printable, max_size=8) | st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
passwords = st.builds(lambda before, after: f"{before}{MARK}{after}", _texts, _texts)


def written_in_ways(password):
    """As people write a password into a URL."""
    encoded = quote(password, safe="")
    return st.sampled_from([password, encoded, quote(password), quote_plus(password), encoded.replace("%2F", "%2f")])


def forms_of(password):
    plain = {password, unquote(password), unquote_plus(password)}
    found = set()
    for text in plain:
        found |= {text, quote(text, safe=""), quote(text), quote_plus(text), repr(text)[1:-1], json.dumps(text)[1:-1]}
    return found


class Seen:
    """Collects all that a program, its log or its reports could show."""

    def __init__(self):
        self.texts = []

    def look_at(self, thing):
        store = getattr(thing, "store", thing)
        if isinstance(thing, HistoryRegistry):
            store = thing.store()
        views = [lh.WindowedChatMessageHistory(store.history("s")), store.history("s")]
        parts = [store.operations, store._clients, vars(store.operations).get("database"), *views]
        # LangChain's `str` of a history reads it.
        self.texts += [repr(part) for part in (thing, store, *parts)]

    def look_at_error(self, error):
        assert isinstance(error, HistoryError), repr(error)
        self.texts += traceback.format_exception(error)
        waiting, seen = [error], []
        while waiting:
            current = waiting.pop()
            if current is not None and current not in seen:
                seen.append(current)
                self.texts += [str(current), repr(current), repr(vars(current))]
                waiting += [current.__cause__, current.__context__]

    def check(self, password, *, marked=True):
        told = "\n".join(self.texts)
        for form in forms_of(password):
            assert form not in told
        if marked:
            assert MARK.lower() not in told.lower()


class Recorder(logging.Handler):
    def __init__(self, texts):
        super().__init__(logging.DEBUG)
        self.setFormatter(logging.Formatter())
        self.texts = texts

    def emit(self, record):
        self.texts.append(self.format(record))


def seen_of(make, use=None):
    """Make a thing, let it be used, and return what was seen."""
    seen = Seen()
    recorder, logger = Recorder(seen.texts), logging.getLogger("langchain_histories")
    level = logger.level
    logger.addHandler(recorder)
    logger.setLevel(logging.DEBUG)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                thing = make()
                seen.look_at(thing)
                if use is not None:
                    use(thing)
            except Exception as error:  # noqa: BLE001  # what is not ours fails the check of its class
                caught = error
            else:
                caught = None
            seen.texts += [str(one.message) for one in warned]
    finally:
        logger.removeHandler(recorder)
        logger.setLevel(level)
    if caught is not None:
        seen.look_at_error(caught)
    return seen


some = hypothesis.settings(max_examples=12)


def is_marked(form, password, written):
    """Whether no piece may be shown: an `&` that is not escaped begins another option, whose name is shown."""
    return "&" not in password or written != password or "={}" not in form


@pytest.mark.parametrize("form", URLS)
@some
@hypothesis.given(data=st.data(), password=passwords)
def test_urls(form, data, password):
    written, way = data.draw(written_in_ways(password)), data.draw(st.sampled_from([*URL_WAYS]))
    seen = seen_of(lambda: URL_WAYS[way](form.replace("{}", written)))
    seen.check(password, marked=is_marked(form, password, written))


@pytest.mark.parametrize("form", [form for form in URLS if any(form.startswith(scheme) for scheme in URL_DROP_INS)])
@some
@hypothesis.given(data=st.data(), password=passwords)
def test_urls_of_drop_ins(form, data, password):
    make = next(make for scheme, make in URL_DROP_INS.items() if form.startswith(scheme))
    written = data.draw(written_in_ways(password))
    seen = seen_of(lambda: make(form.replace("{}", written)))
    seen.check(password, marked=is_marked(form, password, written))


@pytest.mark.parametrize("way", OPTIONS)
@some
@hypothesis.given(password=passwords)
def test_options(way, password):
    seen_of(lambda: OPTIONS[way](password)).check(password)


@pytest.mark.parametrize("way", ENVIRONMENT)
@some
@hypothesis.given(password=passwords.filter(lambda text: "\0" not in text))
def test_the_environment(way, password):
    variable, form, make = ENVIRONMENT[way]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TABLESTORE_ACCESS_KEY_ID", "id")
        patch.setenv(variable, form.replace("{}", password))
        seen = seen_of(make)
    seen.check(password)


WITH_LOGIN = [form for form in URLS if "{}@" in form and not form.startswith(("memory", "file", "nosuch", "yugabyte"))]


@pytest.mark.parametrize("password", ["pw/1@x", "12/x@y", "a@b/c", "1@b?c", f"a@/{MARK}"])
@pytest.mark.parametrize("form", WITH_LOGIN)
def test_a_password_that_no_parser_can_find_is_refused_with_the_way_to_write_it(form, password):
    with pytest.raises(ConfigurationError, match=r"percent-encoded: .*%2F.*%40") as caught:
        open_store(form.replace("{}", password))
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize("form", [form for form in URLS if not form.startswith("nosuch")])
def test_what_is_no_text(form):
    with pytest.raises(ConfigurationError, match="must be a str") as caught:
        store_kind(form).cls(form.replace("{}", MARK).encode())
    assert MARK not in "".join(traceback.format_exception(caught.value))


def test_a_secret_in_another_place_of_a_config():
    url = f"redis://:{MARK}@{NOBODY}"
    for config in (
        {"histories": {"a": {"url": "memory://", "codec": f"${MARK}"}}},
        {"default": url, "histories": {"a": {"url": "memory://"}}},
        {"histories": {url: {}}},
        {"histories": {url: url}},
    ):
        seen_of(lambda config=config: HistoryRegistry.from_config(config)).check(MARK)


def test_arguments_in_another_order():
    with pytest.raises(ConfigurationError, match="redis://"):
        lh.RedisChatMessageHistory(f"redis://{NOBODY}", "s")
    with pytest.raises(ConfigurationError, match="postgresql://"):
        lh.PostgresChatMessageHistory(f"postgresql://{NOBODY}", "s")


FILES = {
    "a.toml": ['[histories.a]\nurl = "{}', "[histories.a]\nurl = {}", '[histories.a]\n{} = "x"\nurl = "y"'],
    "a.yaml": ['histories: {{a: {{url: "{}', "histories: {{a: {{url: *{}", "histories: {{a: {{url: !{} x", "{}: - ["],
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("name", FILES)
@some
@hypothesis.given(data=st.data(), password=passwords)
def test_broken_configs(tmp_path_factory, name, encoding, data, password):
    path = tmp_path_factory.mktemp("config") / name
    text = data.draw(st.sampled_from(FILES[name])).format(f"redis://:{password}@127.0.0.1:9")
    path.write_text(text, encoding=encoding)
    seen = seen_of(lambda: HistoryRegistry.from_config(path))
    seen.check(password, marked=False)


# Nobody listens there. Every client has keys, so none looks for credentials elsewhere.
AGAINST_NOBODY = {
    "redis": (lh.RedisStore, "redis://user:{}@127.0.0.1:9/0", {}),
    "redis query": (lh.RedisStore, "redis://127.0.0.1:9/0?password={}", {}),
    "redis, bad option": (lh.RedisStore, "redis://user:{}@127.0.0.1:9/0?no_such=1", {}),
    "redis, bad host": (lh.RedisStore, "redis://user:{}@a..b/0", {}),
    "unix": (lh.RedisStore, "unix://user:{}@/tmp/none.sock", {}),
    "sentinel": (
        lh.RedisStore,
        "redis+sentinel://user:{}@127.0.0.1:9/service",
        {"client_options": {"sentinel_kwargs": {"retry": Retry(NoBackoff(), 0)}}},
    ),
    "upstash": (lh.UpstashStore, "upstash+http://:{}@127.0.0.1:9", {"timeout": 1}),
    "upstash query": (lh.UpstashStore, "upstash+http://127.0.0.1:9?token={}", {"timeout": 1}),
    "kafka": (lh.KafkaStore, "kafka://user:{}@127.0.0.1:9", {"timeout": 0.2}),
    "kafka, bad option": (lh.KafkaStore, "kafka://user:{}@127.0.0.1:9?no.such=1", {"timeout": 0.2}),
    "mongodb": (lh.MongoDBStore, "mongodb://user:{}@127.0.0.1:9/?serverSelectionTimeoutMS=50", {}),
    "postgresql": (lh.SQLStore, "postgresql+psycopg://user:{}@127.0.0.1:9/db", {}),
    "postgresql, bad option": (lh.SQLStore, "postgresql+psycopg://user:{}@127.0.0.1:9/db?no_such=1", {}),
    "mysql": (lh.SQLStore, "mysql+pymysql://user:{}@127.0.0.1:9/db", {}),
    "mysql, bad option": (lh.SQLStore, "mysql+pymysql://user:{}@127.0.0.1:9/db?connect_timeout=x", {}),
    "dynamodb": (
        lh.DynamoDBStore,
        "dynamodb://AKIA:{}@eu-west-1/table?endpoint_url=http://127.0.0.1:9",
        {"client_options": {"config": botocore.config.Config(retries={"total_max_attempts": 1})}},
    ),
    "dynamodb, bad endpoint": (lh.DynamoDBStore, "dynamodb://AKIA:{}@eu-west-1/table?endpoint_url=nowhere", {}),
    "azure": (
        lh.AzureTableStore,
        "azure-table+http://account:{}@127.0.0.1:9/account/table",
        {"client_options": {"retry_total": 0}},
    ),
    "tablestore": (
        lh.TablestoreStore,
        "tablestore+http://id:{}@127.0.0.1:9/instance",
        {"client_options": {"retry_policy": tablestore.NoRetryPolicy()}},
    ),
}


@pytest.mark.parametrize("way", AGAINST_NOBODY)
@hypothesis.settings(max_examples=4)
@hypothesis.given(data=st.data(), password=passwords)
def test_operations(way, data, password):
    cls, form, options = AGAINST_NOBODY[way]
    written = data.draw(written_in_ways(password))

    def use(store):
        with store:
            store.append("s", [HumanMessage("x")])

    seen = seen_of(lambda: cls(form.replace("{}", written), **options), use)
    seen.check(password, marked=is_marked(form, password, written))


class Talkative(Operations):
    """A driver whose errors quote what it was given."""

    name = "talkative"

    def __init__(self, said):
        super().__init__()
        self.said = said

    async def append(self, client, key, rows):
        try:
            raise ValueError(self.said)  # noqa: TRY301
        except ValueError as error:
            raise ConnectionError("down") from error

    async def read(self, client, key, *, last=None, first=None, after=None):
        raise OSError(self.said)

    async def clear(self, client, key):
        try:
            raise KeyError(self.said)  # noqa: TRY301
        except KeyError as error:
            raise lh.RecordTooLargeError("too large") from error


@hypothesis.settings(max_examples=100)
@hypothesis.given(form=st.sampled_from(URLS), data=st.data(), password=passwords)
def test_a_driver_that_quotes_its_url(form, data, password):
    url = form.replace("{}", data.draw(written_in_ways(password)))
    said = data.draw(st.sampled_from([*sorted(forms_of(password)), url, repr(url), unquote(url)]))
    store = MessageStore(Talkative(said), Clients(client=object()), url)
    for call in (lambda: store.append("s", [HumanMessage("x")]), lambda: store.read("s"), lambda: store.clear("s")):
        seen_of(lambda: store, lambda _, call=call: call()).check(password, marked=False)
