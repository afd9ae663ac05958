"""What is shown of a URL, whatever its password is."""

from __future__ import annotations

import re
import string
from types import SimpleNamespace
from urllib.parse import quote, quote_plus, unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_histories import ConfigurationError, StoreError
from langchain_histories._secrets import mentions, secrets_of
from langchain_histories._urls import shown_url, split_url

FORMS = [
    "redis://:{}@host",
    "redis://user:{}@host:6379/0?socket_timeout=5",
    "redis://host/0?password={}&db=1",
    "redis+sentinel://user:{}@a:1,b:2/service/0",
    "unix://:{}@/run/redis.sock",
    "postgresql+psycopg://user:{}@host/db?sslmode=require",
    "mysql+pymysql://user:{}@127.0.0.1:3306/db",
    "mongodb+srv://user:{}@cluster.example.com/db",
    "kafka://user:{}@host:9092,other:9092/topic",
    "upstash://:{}@host.upstash.io",
    "upstash://host.upstash.io?token={}",
    "dynamodb://AKIA:{}@eu-west-1/table",
    "azure-table://account:{}@account.table.core.windows.net/table",
    "azure-table://a.table.core.windows.net/t?sv=1&sig={}",
    "cosmosdb://:{}@account.documents.azure.com/db/container",
    "tablestore://id:{}@instance.region.ots.aliyuncs.com/instance",
    "alloydb://user:{}@project/region/cluster/instance/db",
    "cloudsql://user:{}@project:region:instance/db",
    "yugabytedb://user:{}@host:5433/db?load_balance=true",
    "redis://:{}",
    "plugin://user:{}@[::1]:80/x",
]
passwords = st.text(string.printable, min_size=4, max_size=20) | st.text(min_size=4, max_size=8)
# Short ones could stand in a host or a scheme by chance.
passwords = passwords.map(lambda text: f"Zq9{text}")


def forms_of(password):
    plain = {password, unquote(password)}
    return {
        form for text in plain for form in (text, quote(text, safe=""), quote(text), quote_plus(text), repr(text)[1:-1])
    }


@settings(max_examples=200, deadline=None)
@given(form=st.sampled_from(FORMS), password=passwords.filter(lambda text: all(ord(c) < 0xD800 for c in text)))
def test_no_password_is_shown(form, password):
    for written in (password, quote(password, safe=""), quote(password), quote_plus(password)):
        if form.startswith("plugin") and ":" in written:
            continue  # what stands before the colon is then a user
        if form.endswith(":{}") and "@" in written:
            continue  # what stands behind the @ is then a host
        url = form.format(written)
        shown = shown_url(url)
        assert "Zq9" not in shown
        assert shown.startswith(url.partition(":")[0])
        secrets = secrets_of(url)
        for leak in forms_of(written):
            assert mentions(ValueError(f"cannot read {leak}"), secrets)


def test_what_is_no_secret_is_shown():
    shown = {
        "redis://localhost:6379/0": "redis://localhost:6379/0",
        "redis://ivan:secret@h:1/0?db=1": "redis://ivan:***@h:1/0?db=***",
        "sqlite:////var/lib/chat.db": "sqlite:////var/lib/chat.db",
        "sqlite:///chat.db?timeout=5": "sqlite:///chat.db?timeout=***",
        "file:./chats": "file:./chats",
        "/var/lib/chats": "/var/lib/chats",
        "mongodb://a:1,b:2/db": "mongodb://a:1,b:2/db",
        "cloudsql://user@project:region:instance/db": "cloudsql://***@project:region:instance/db",
        "redis://token@host/0": "redis://***@host/0",
        "not a url": "***",
    }
    assert {url: shown_url(url) for url in shown} == shown


def test_a_secret_is_found_in_any_error_that_led_to_another():
    secrets = secrets_of("redis://:Secret7@h", {"connect_args": {"password": "Other8", "timeout": 5}})
    found = StoreError("refused")
    found.__cause__ = LookupError()
    found.__cause__.__context__ = ValueError("Port could not be cast: 'Secret7'")
    assert mentions(found, secrets)
    assert mentions(ExceptionGroup("all", [ValueError("Other8")]), secrets)
    assert not mentions(StoreError("refused"), secrets)


@pytest.mark.parametrize("password", ["a/b", "a/1", "1234/x", "a?b", "a#b", "a[b", "a@b/c", "a:b/c"])
@pytest.mark.parametrize("form", ["redis://user:Zq9{}@host:1/0", "redis://:Zq9{}@host"])
def test_a_url_that_can_be_read_in_two_ways_is_refused_and_not_quoted(form, password):
    with pytest.raises(ConfigurationError, match="percent-encoded") as caught:
        split_url(form.format(password), "redis://...")
    assert "Zq9" not in repr(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize(
    "password", ["a", "a:b", "a+b", "a=b&c", "a@b", quote("/?#[]@:% +", safe=""), "~!$^*(){}|;',.<>"]
)
def test_other_passwords_are_read(password):
    url = split_url(f"redis://user:{password}@host:1/0?db=2", "redis://...")
    assert (url.scheme, url.user, url.password) == ("redis", "user", unquote(password))
    assert (url.host, url.port, url.path, url.options) == ("host", 1, "0", {"db": "2"})


def test_hosts():
    hosts = {
        "x://a": (("a", None),),
        "x://A:1,b:2,[::1]:3/p": (("a", 1), ("b", 2), ("::1", 3)),
        "x://:5": (("", 5),),
        "x:///p": (),
        "x://u:p@[fe80::1%eth0]": (("fe80::1%eth0", None),),
    }
    assert {url: split_url(url, "x://...").hosts for url in hosts} == hosts
    for url in ("x://a:b", "x://a:65536", "x://a,b:c", "x://[::1", "x://a:1:2"):
        with pytest.raises(ConfigurationError, match="x://host"):
            split_url(url, "x://host")
    assert split_url("x://u:p@a:b:c/d", "x://...", has_hosts=False).address == "a:b:c"


def test_what_is_taken_apart_shows_no_secret():
    url = split_url("x://tok3n:p4ssword@host/path?token=Secret7", "x://...")
    assert (url.password, url.options) == ("p4ssword", {"token": "Secret7"})
    assert not {"tok3n", "p4ssword", "Secret7"} & set(re.findall(r"\w+", repr(url)))


AZURES = "AccountName=acct;AccountKey=Sec=ret7==;EndpointSuffix=x.net"
SIGNED = "BlobEndpoint=https://h.net;SharedAccessSignature=sv=1&sig=Secret7"


@pytest.mark.parametrize(
    ("options", "secrets", "others"),
    [
        ({"password": "Secret7"}, ["Secret7"], []),
        ({"password": 12345678}, ["12345678"], []),
        ({"connection_string": AZURES}, ["Sec=ret7=="], ["x.net"]),
        ({"connection_string": SIGNED}, ["Secret7"], ["h.net"]),
        ({"connection_string": "Secret7"}, ["Secret7"], []),
        ({"conninfo": r"host=h1234 password='Sec \'ret7' dbname=d123"}, ["Sec 'ret7"], ["h1234", "d123"]),
        ({"dsn": "host=h1234 password=Secret7;x dbname=d123"}, ["Secret7;x"], ["h1234", "d123"]),
        ({"dsn": "postgresql://u:Secret7@h1234/d"}, ["Secret7"], ["h1234"]),
        ({"sasl.jaas.config": 'Module required username="u123" password="Secret7";'}, ["Secret7"], []),
        ({"proxies": {"https": "http://u:Secret7@proxy1"}}, ["Secret7"], ["proxy1"]),
        ([{"connect_args": {"ssl": {"ssl_password": b"Secret7"}}}], ["Secret7"], []),
        ({"ssl.key.location": "/etc/key.pem", "timeout": 1234567}, [], ["/etc/key.pem", "1234567"]),
        ({"url": "postgresql://h1234/d?sslkey=/etc/key.pem&sslpassword=Secret7"}, ["Secret7"], ["/etc/key.pem"]),
        ({"auth": ("u123", "Secret7"), "headers": {"Authorization": "Bearer Secret7"}}, ["Secret7"], []),
        ({"credential": SimpleNamespace(_key="Secret7", _name="acct")}, ["Secret7"], ["acct"]),
    ],
)
def test_secrets_of_options(options, secrets, others):
    found = secrets_of(None, options)
    assert set(secrets) <= set(found)
    for other in others:
        assert not mentions(ValueError(f"cannot open {other}"), found)


@pytest.mark.parametrize("shown", ["S%2fe%2Bcret!7", "S/e%2Bcret%217", "S/e%2bcret!7"])
def test_a_secret_is_found_however_much_of_it_is_percent_encoded(shown):
    assert mentions(ValueError(f"GET http://host/?x={shown}"), secrets_of(None, {"token": "S/e+cret!7"}))


def test_an_option_that_holds_itself():
    options = {"password": "Secret7"}
    options["credentials"] = options
    assert "Secret7" in secrets_of(None, options)
