"""What must not get in does not, at any entrance: Django, the lane by ASGI, its protocol class."""

import gzip
import json
import zlib
from datetime import timedelta

import jwt
import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Group
from django.utils import timezone
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken

from plugins import RecommendationRequest
from serving_app import access, registration, wiring
from serving_app.access_models import GroupModels, SigningKey
from serving_app.api.lane import Lane
from serving_app.api.lane_inference import InferenceLane
from serving_app.api.protocol import LaneProtocol
from tests.conftest import linear_draft
from tests.serving_app.api.test_lane import GOOD, PREDICT, Client, Door, aside, headers_of, tokens
from tests.wire import Wire, raw, responses

__all__ = ["tokens"]

pytestmark = pytest.mark.contract("A5")

INFER = "/v2/models/default/infer"
TENSOR = {"name": "features", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
BODIES = {PREDICT: GOOD, INFER: {"inputs": [TENSOR]}}
ENTRANCES = ("django", "lane", "protocol")


def lane():
    return Lane(InferenceLane(Door(), aside=aside), aside=aside)


@pytest.fixture(params=ENTRANCES)
def ask(request):
    """Sends a request in at an entrance, and returns status, headers and the body's JSON."""

    def ask(path, headers, body):
        async def scene():
            if request.param == "protocol":
                written = await Wire(lane(), LaneProtocol).ask(raw("POST", path, headers, body))
                (answer,) = responses(written)
                return answer
            door = Door() if request.param == "django" else lane()
            return await Client(door).ask("POST", path, headers, body)

        status, answered, content = async_to_sync(scene)()
        return status, {name.lower(): value for name, value in answered}, json.loads(content)

    ask.entrance = request.param
    return ask


@pytest.fixture(params=[PREDICT, INFER])
def path(request):
    return request.param


@pytest.fixture
def sent(ask, path, tokens):
    """Sends a sound question with a token, whose answer is at hand for those who may have it."""
    wiring.get_recommender().recommend(
        RecommendationRequest(user_id=GOOD["user_id"], features=GOOD["features"])
    )

    def send(token, body=BODIES[path], **more):
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        return ask(path, headers_of(token, text, **more), text)

    assert send(tokens["good"])[0] == 200
    return send


def refused(answer, path, status, code=""):
    """Check that an answer is a refusal in its door's form."""
    given, headers, content = answer
    assert given == status, content
    assert headers["x-request-id"]
    if path == INFER:
        assert headers["content-type"] == "application/json"
        assert list(content) == ["error"]
        assert content["error"]
    else:
        assert headers["content-type"] == "application/problem+json"
        assert content["request_id"] == headers["x-request-id"]
        assert content["status"] == status
        assert content["code"] == code or not code
    if status == 401:
        assert headers["www-authenticate"].startswith("Bearer")


def forgeries(token, user):
    """Return tokens that differ from a good one in one respect, by what that is."""
    row = SigningKey.objects.get(kid=jwt.get_unverified_header(token)["kid"])
    claims = jwt.decode(token, options={"verify_signature": False})
    yesterday = int((timezone.now() - timedelta(days=1)).timestamp())

    def signed(*, key=None, algorithm="HS256", kid=row.kid, **changes):
        key = row.secret() if key is None else key
        return jwt.encode({**claims, **changes}, key, algorithm=algorithm, headers={"kid": kid})

    head, payload, signature = token.split(".")
    return signed(), {
        "expired": signed(exp=yesterday),
        "alg none": signed(key="", algorithm="none"),
        "alg none, signed": f"{signed(key='', algorithm='none')}{signature}",
        "another algorithm": signed(key=row.secret() * 2, algorithm="HS512"),
        "another key": signed(key=b"x" * 32),
        "a key that is none": signed(kid="../../etc/passwd"),
        "another audience": signed(aud="another"),
        "another issuer": signed(iss="another"),
        "another user, signature kept": f"{head}.{payload[:-4]}{payload[-4:][::-1]}.{signature}",
        "no signature": f"{head}.{payload}.",
        "a refresh token": str(RefreshToken.for_user(user)),
    }


def test_forged_expired_and_foreign_tokens_are_refused(sent, path, django_user_model):
    user = django_user_model.objects.get(username="predict-user")
    good, forged = forgeries(str(AccessToken.for_user(user)), user)
    assert sent(good)[0] == 200, "what is forged here is so in one respect only"
    for what, token in forged.items():
        answer = sent(token)
        assert answer[0] == 401, what
        refused(answer, path, 401, "token-not-valid")


def test_revoked_inactive_and_missing_ones_are_refused(sent, path, tokens):
    for what in ("revoked", "inactive", "expired", "forged", "unsigned", "wrong audience"):
        refused(sent(tokens[what]), path, 401, "token-not-valid")
    for what in ("rubbish", "two words", "empty"):
        refused(sent(tokens[what]), path, 401)
    refused(sent(None), path, 401, "not-authenticated")
    refused(sent(None, authorization="Basic dTpw"), path, 401)


def test_a_token_that_was_taken_is_refused_once_it_is_revoked(sent, path):
    row, text = access.create_token("a program", role="predict")
    assert [sent(text)[0], sent(text)[0]] == [200, 200]
    row.revoked = timezone.now()
    row.save()
    access.refresh()
    refused(sent(text), path, 401, "token-not-valid")


def test_who_may_not_predict_is_refused(sent, path, tokens, django_user_model):
    refused(sent(tokens["nobody"]), path, 403)
    user = django_user_model.objects.get(username="predict-user")
    user.groups.clear()  # who could, a moment ago
    access.refresh()
    refused(sent(tokens["good"]), path, 403)


def test_who_may_ask_one_model_asks_no_other(sent, path, store, client_as, django_user_model):
    other = registration.register("other", linear_draft(store, "other.npz"))
    registration.promote(other)
    wiring.get_serving().reconciler.reconcile()
    _, program = access.create_token("of the other", role="predict", models=[other.model])
    group = Group.objects.create(name="shop")
    group.permissions.set(Group.objects.get(name="recserve predict").permissions.all())
    GroupModels.objects.create(group=group).served_models.set([other.model])
    person = django_user_model.objects.create_user("someone")
    person.groups.add(group)
    for token in (program, str(AccessToken.for_user(person))):
        refused(sent(token), path, 403, "model-not-permitted")
        if path == PREDICT:
            assert sent(token, {**GOOD, "model_name": "other"})[0] == 200
            for name in ("default@production", "default@1", "nobody"):
                refused(sent(token, {**GOOD, "model_name": name}), path, 403)


@pytest.mark.contract("A6")
def test_what_grows_when_it_is_decompressed_is_not(sent, path, tokens, settings):
    serving = {**settings.RECSERVE["SERVING"], "MAX_INFER_BYTES": 4000, "MAX_BODY_BYTES": 4000}
    settings.RECSERVE = {**settings.RECSERVE, "SERVING": serving}
    zeros = bytes(4_000_000)
    # The first few bytes of it are too much already.
    bombs = {"gzip": gzip.compress(zeros)[:3000], "deflate": zlib.compress(zeros)[:3000]}
    for coding, bomb in bombs.items():
        answer = sent(tokens["good"], bomb, content_encoding=coding)
        if path == INFER:
            refused(answer, path, 413)
        else:  # nothing is decompressed there
            refused(answer, path, 400, "parse-error")
    refused(sent(tokens["good"], b" " * 4001), path, 413, "body-too-large")


DEEP = {
    "open lists": b"[" * 100_000,
    "open objects": b'{"a":' * 100_000,
    "lists": b"[" * 100_000 + b"]" * 100_000,
    "a value": b'{"context":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
    "a tensor": json.dumps({"inputs": [{**TENSOR, "data": "HERE"}]})
    .encode()
    .replace(b'"HERE"', b"[" * 20_000 + b"1,2,3" + b"]" * 20_000),
    "parameters": b'{"parameters":' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}",
}


@pytest.mark.contract("A6")
def test_deep_json_is_refused(sent, path, tokens):
    for what, body in DEEP.items():
        answer = sent(tokens["good"], body)
        assert answer[0] in {400, 422}, what
        refused(answer, path, answer[0])


@pytest.mark.contract("A6")
def test_nothing_of_a_request_becomes_a_header(ask, path, sent, tokens):
    evil = "a\r\nx-evil: 1"
    if ask.entrance != "protocol":  # whose parser refuses it before
        status, headers, _ = sent(tokens["good"], x_request_id=evil)
        assert status == 200
        assert "\n" not in headers["x-request-id"]
        assert "x-evil" not in headers
    for id_ in ("a b", "<script>", "é", "x" * 129, "a;b"):
        status, headers, _ = sent(tokens["good"], x_request_id=id_)
        assert status == 200
        assert headers["x-request-id"] != id_
    body = {**BODIES[path], "id" if path == INFER else "model_name": evil}
    status, headers, _ = sent(tokens["good"], body)
    assert status == (200 if path == INFER else 404)
    assert not any("evil" in name + value for name, value in headers.items())
    if ask.entrance != "protocol" and path == INFER:
        text = json.dumps(BODIES[path]).encode()
        named = f"/v2/models/{evil}/infer"
        status, headers, content = ask(named, headers_of(tokens["good"], text), text)
        assert (status, list(content)) == (404, ["error"])
        assert not any("evil" in name + value for name, value in headers.items())
