"""The log, e-mail and webhooks."""

import contextlib
import json
import logging
import re
import socket

import pytest
from django.core import mail

from plugins import AlertNotice
from plugins.alerts.email import EmailChannel
from plugins.alerts.log import LogChannel
from plugins.alerts.webhook import WebhookChannel
from plugins.conformance import check_alert_channel
from tests.journeys.conftest import ROOT
from tests.receivers import receiver

pytestmark = pytest.mark.contract("O3")

GUIDE = (ROOT / "docs" / "alerts.md").read_text("utf-8")
NOTICE = AlertNotice("7-firing", "Slow", "firing", "critical", "p99 is 3 s.", value=3.0)


def test_the_log_is_a_channel(caplog):
    with caplog.at_level(logging.INFO, logger="recserve.alerts"):
        channel = LogChannel()
        channel.send(NOTICE)
        assert caplog.records[-1].levelno == logging.ERROR
        assert caplog.records[-1].getMessage() == "firing: p99 is 3 s."
        channel.send(AlertNotice("7-resolved", "Slow", "resolved", "critical", "p99 is 1 s."))
        assert caplog.records[-1].levelno == logging.INFO


def test_e_mail_is_a_channel(settings):
    channel = EmailChannel(to="ops@example.org, boss@example.org", sender="recserve@example.org")
    check_alert_channel(channel, lambda: [m.subject + m.body for m in mail.outbox])
    first = mail.outbox[0]
    assert first.to == ["ops@example.org", "boss@example.org"]
    assert first.subject == "[critical] firing: Hit rate"
    assert "model: shop" in first.body
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", _closed_port()
    with pytest.raises(OSError, match="refused"):
        channel.send(NOTICE)


def test_a_subject_has_one_line():
    channel = EmailChannel(to="ops@example.org")
    channel.send(AlertNotice("1", "a\nBcc: x@example.org", "firing", "info", "s"))
    assert mail.outbox[0].subject == "[info] firing: a Bcc: x@example.org"


@pytest.mark.parametrize("to", ["", ",", "nobody", "a@b c@d", "a@b\n"])
def test_e_mail_goes_to_addresses(to):
    with pytest.raises(ValueError, match=r"no e-mail address|nobody"):
        EmailChannel(to=to if to != "a@b\n" else "a@b\nBcc: c@d")


def test_a_webhook_is_a_channel():
    with receiver() as there:
        channel = WebhookChannel(url=there.url)
        check_alert_channel(channel, there.bodies, there.refusing())


def test_a_webhook_signs_what_it_sends(monkeypatch):
    monkeypatch.setenv("HOOK_SECRET", "s3cret")
    with receiver() as there:
        channel = WebhookChannel(url=there.url, secret_variable="HOOK_SECRET")
        channel.send(NOTICE)
        headers, body = there.got[0]
        (code,) = re.findall(r"^```python\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
        guide = {}
        exec(code, guide)
        assert guide["is_genuine"]("s3cret", headers, body)
        assert not guide["is_genuine"]("s3cret", headers, body + b" ")
        assert not guide["is_genuine"]("other", headers, body)
        assert json.loads(body)["id"] == "7-firing"
        monkeypatch.delenv("HOOK_SECRET")
        with pytest.raises(LookupError, match="HOOK_SECRET"):
            channel.send(NOTICE)
        assert len(there.got) == 1, "nothing goes out unsigned"


def test_a_webhook_follows_no_redirect_and_waits_for_nobody_for_long():
    with receiver() as there, receiver() as other:
        there.status, there.location = 302, other.url
        with pytest.raises(OSError, match="answered 302"):
            WebhookChannel(url=there.url).send(NOTICE)
        assert not other.got
    with pytest.raises(OSError, match="refused"):
        WebhookChannel(url=f"http://127.0.0.1:{_closed_port()}/").send(NOTICE)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
        with pytest.raises(OSError, match="timed out"):
            WebhookChannel(url=url, timeout=0.05).send(NOTICE)


@pytest.mark.parametrize(
    "options",
    [
        {"url": "file:///etc/passwd"},
        {"url": "http://"},
        {"url": "https://user:pass@example.org/"},
        {"url": "https://example.org/", "timeout": 0},
        {"url": "https://example.org/", "timeout": 31.0},
    ],
)
def test_a_webhook_refuses_what_it_cannot_call(options):
    with pytest.raises(ValueError, match=r"URL|time-out"):
        WebhookChannel(**options)


class Silent:
    """Takes everything, and sends nothing."""

    def send(self, notice):
        """Do nothing."""


def test_the_conformance_check_finds_what_is_wrong():
    with receiver() as there:
        with pytest.raises(AssertionError, match="did not arrive"):
            check_alert_channel(Silent(), there.bodies)

        class Swallows(WebhookChannel):
            def send(self, notice):
                with contextlib.suppress(OSError):
                    super().send(notice)

        with pytest.raises(AssertionError, match="it must raise"):
            check_alert_channel(Swallows(url=there.url), there.bodies, there.refusing())


def _closed_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
