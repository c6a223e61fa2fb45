"""Fixtures of the tests of the API."""

import pytest


@pytest.fixture(autouse=True)
def called_without_a_client(connection_of_the_test):
    """Applications are called here without Django's client, too."""
