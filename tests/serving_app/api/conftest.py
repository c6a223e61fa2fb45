"""Fixtures of the tests of the API."""

import pytest
from django.core.signals import request_finished, request_started
from django.db import close_old_connections


@pytest.fixture(autouse=True)
def connection_of_the_test():
    """Let no request end the connection whose transaction the test is in, as Django's client does.

    Applications are called here without that client, too.
    """
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)
