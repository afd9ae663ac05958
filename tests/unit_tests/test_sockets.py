"""The sockets of blocking drivers: no wait is longer than the call that waits."""

from __future__ import annotations

import socket
import ssl
import threading
import time

import psycopg
import pytest
import trustme

from langchain_histories._deadlines import Deadline, under
from langchain_histories.stores.shared.sockets import in_time
from langchain_histories.stores.sql import psycopg_waits


def pair(*, encrypted):
    ours, theirs = socket.socketpair()
    if not encrypted:
        return ours, theirs
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("here").configure_cert(server)
    authority.configure_trust(client)
    kept = []
    serving = threading.Thread(target=lambda: kept.append(server.wrap_socket(theirs, server_side=True)))
    serving.start()
    ours = client.wrap_socket(ours, server_hostname="here")
    serving.join()
    return ours, kept[0]


@pytest.mark.parametrize("encrypted", [False, True])
def test_the_waits_of_a_call_are_one(encrypted):
    ours, theirs = pair(encrypted=encrypted)
    with ours, theirs:
        ours.settimeout(60)
        assert in_time(ours) is ours
        theirs.sendall(b"0123456789")
        with under(Deadline(0.05)):
            assert ours.recv(1) == b"0"  # and what is read by a file of it
            with ours.makefile("rb", buffering=0) as file:
                assert file.read(9) == b"123456789"
            began = time.monotonic()
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    ours.recv(1)
            with pytest.raises(TimeoutError):
                ours.sendall(b"late")
            assert time.monotonic() - began < 30
        # Who uses the driver's client himself has the driver's time-out.
        assert ours.gettimeout() == 60
        theirs.sendall(b"x")
        assert ours.recv(1) == b"x"


def test_what_does_not_wait_is_left_alone():
    ours, theirs = pair(encrypted=False)
    with ours, theirs:
        in_time(ours)
        ours.setblocking(False)
        with under(Deadline(0.01)), pytest.raises(BlockingIOError):
            ours.recv(1)
        other = object()
        assert in_time(other) is other


def test_a_connection_of_somebody_else():
    """The class of an open connection is replaced, which Python refuses where classes are laid out unlike."""
    connection = psycopg.Connection.__new__(psycopg.Connection)
    psycopg_waits.in_time(connection)
    assert type(connection) is psycopg_waits._Connection
    connection.__class__ = psycopg.Connection
