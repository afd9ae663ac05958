"""What is shown of a URL, whatever its password is."""

from __future__ import annotations

import string
from urllib.parse import quote, quote_plus, unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_histories import ConfigurationError, StoreError
from langchain_histories._urls import mentions, secrets_of, shown_url, split_url

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


@settings(max_examples=500, deadline=None)
@given(form=st.sampled_from(FORMS), password=passwords.filter(lambda text: all(ord(c) < 0xD800 for c in text)))
def test_no_password_is_shown(form, password):
    for written in (password, quote(password, safe=""), quote(password), quote_plus(password)):
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
    assert url == ("redis", "user", unquote(password), "host", 1, "0", {"db": "2"})
