import json
from datetime import timedelta

import jwt
import pytest
from django.contrib.auth.models import Group, Permission
from django.core.management import CommandError, call_command
from django.db import DatabaseError
from django.utils import timezone
from rest_framework_simplejwt.token_blacklist.models import OutstandingToken
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken

from plugins import TokenNotValid, Unavailable
from serving_app import access
from serving_app.access_models import AccessEpoch, GroupModels, ServiceToken, SigningKey
from serving_app.models import ServedModel
from serving_app.signing import rotate

pytestmark = [pytest.mark.contract("A5"), pytest.mark.django_db]


@pytest.fixture(autouse=True)
def as_a_new_process():
    access.reset()
    yield
    access.reset()


@pytest.fixture
def commits(django_capture_on_commit_callbacks):
    """Run what waits for a commit, as outside of tests."""
    return lambda: django_capture_on_commit_callbacks(execute=True)


@pytest.fixture
def user(django_user_model):
    user = django_user_model.objects.create_user("ann", password="s3cret-enough")
    user.groups.add(Group.objects.get(name="recserve predict"))
    return user


def verified(token):
    return access.verify(str(token).encode())


def refused(token):
    with pytest.raises(TokenNotValid):
        verified(token)


def test_a_service_token_is_its_role_and_only_a_digest_is_kept():
    row, text = access.create_token("shop", role="operate")
    assert text.startswith(f"{row.prefix}_")
    granted = verified(text)
    assert granted.permissions == {"predict", "operate"}
    assert (granted.subject, granted.models) == (f"token:{row.prefix}", None)
    stored = ServiceToken.objects.values().get()
    assert text not in json.dumps(stored, default=str)
    assert text[len(row.prefix) :] not in json.dumps(stored, default=str)
    for other in (text[:-1], text + "x", row.prefix, f"{row.prefix}_", text.upper(), "rst_"):
        refused(other)


def test_last_used_is_kept_to_the_hour():
    row, text = access.create_token("shop", role="predict")
    verified(text)
    row.refresh_from_db()
    used = row.last_used
    access.reset()
    verified(text)
    row.refresh_from_db()
    assert row.last_used == used
    ServiceToken.objects.update(last_used=used - timedelta(hours=2))
    access.reset()
    verified(text)
    row.refresh_from_db()
    assert row.last_used > used - timedelta(minutes=1)


def test_a_revoked_token_is_refused_at_once_here(commits):
    row, text = access.create_token("shop", role="predict")
    verified(text)
    assert access.remembered(text.encode()) is not None
    with commits():
        row.revoke()
    assert access.remembered(text.encode()) is None
    refused(text)


def test_another_process_hears_of_it_by_its_next_look():
    row, text = access.create_token("shop", role="predict")
    verified(text)
    row.revoke()  # another process did: what waits for the commit does not run here
    assert access.remembered(text.encode()) is not None
    access.refresh()
    assert access.remembered(text.encode()) is None
    refused(text)


def test_an_expired_token_is_refused():
    _, text = access.create_token(
        "shop", role="predict", expires=timezone.now() - timedelta(seconds=1)
    )
    refused(text)


def test_remembered_tokens_ask_the_database_nothing(django_assert_num_queries, user):
    for token in (access.create_token("shop", role="predict")[1], str(AccessToken.for_user(user))):
        verified(token)
        with django_assert_num_queries(0):
            assert access.remembered(token.encode()) == verified(token)


def test_remembered_tokens_outlive_the_database_and_others_wait_for_it(monkeypatch, settings):
    _, text = access.create_token("shop", role="predict")
    _, other = access.create_token("other", role="predict")
    settings.RECSERVE = {**settings.RECSERVE, "ACCESS": {"REVOCATION_SECONDS": 1e-9}}
    granted = verified(text)

    def away():
        raise DatabaseError("away")

    monkeypatch.setattr(AccessEpoch, "now", away)
    assert access.remembered(text.encode()) is None
    assert verified(text) is granted
    with pytest.raises(Unavailable):
        verified(other)


@pytest.mark.parametrize(
    "change",
    [
        lambda user: user.groups.clear(),
        lambda user: Group.objects.get(name="recserve predict").permissions.clear(),
        lambda user: user.groups.add(Group.objects.get(name="recserve operate")),
        lambda user: user.user_permissions.add(Permission.objects.get(codename="administer")),
    ],
)
def test_a_users_changed_permissions_hold_at_once(change, user, commits):
    token = AccessToken.for_user(user)
    before = verified(token)
    with commits():
        change(user)
    assert verified(token).permissions != before.permissions


def test_a_user_that_is_inactive_gone_or_has_a_new_password_is_refused(
    user, commits, django_user_model
):
    token = AccessToken.for_user(user)
    verified(token)
    with commits():
        user.set_password("another-s3cret")
        user.save()
    refused(token)
    token = AccessToken.for_user(user)
    verified(token)
    with commits():
        user.is_active = False
        user.save()
    refused(token)
    with commits():
        user.delete()
    refused(token)


def test_signing_in_forgets_nothing(user, commits):
    token = AccessToken.for_user(user)
    verified(token)
    with commits():
        user.save(update_fields=["last_login"])
    assert access.remembered(str(token).encode()) is not None


def test_models_by_group_add_up(user):
    a, b, c = (ServedModel.objects.create(name=name) for name in "abc")
    everything = Group.objects.get(name="recserve predict")
    limits = []
    for name, models in (("one", [a]), ("two", [b, c]), ("no grant", [c])):
        group = Group.objects.create(name=name)
        if name != "no grant":
            group.permissions.set(everything.permissions.filter(codename="predict"))
        limit = GroupModels.objects.create(group=group)
        limit.served_models.set(models)
        limits.append(group)
    assert access.of_user(user).models is None
    user.groups.set([limits[0], limits[2]])
    user = type(user).objects.get(pk=user.pk)
    assert access.of_user(user).models == {"a"}
    user.groups.set(limits)
    assert access.of_user(user).models == {"a", "b", "c"}
    user.groups.add(everything)
    assert access.of_user(user).models is None


def forged(user, *, key=None, algorithm="HS256", headers=None, **changes):
    claims = {**AccessToken.for_user(user).payload, "aud": "recserve", "iss": "recserve"}
    claims = {name: value for name, value in {**claims, **changes}.items() if value is not None}
    row = SigningKey.objects.first()
    return jwt.encode(
        claims,
        row.secret() if key is None else key,
        algorithm=algorithm,
        headers={"kid": row.kid} if headers is None else headers,
    )


def test_forged_tokens_are_refused(user):
    str(AccessToken.for_user(user))  # makes the first key
    verified(forged(user))
    yesterday = int((timezone.now() - timedelta(days=1)).timestamp())
    for token in (
        forged(user, key="", algorithm="none"),
        forged(user, key=b"x" * 32),
        forged(user, key=SigningKey.objects.first().secret() * 2, algorithm="HS512"),
        forged(user, headers={}),
        forged(user, headers={"kid": "another"}),
        forged(user, aud="another"),
        forged(user, aud=None),
        forged(user, iss="another"),
        forged(user, exp=yesterday),
        forged(user, exp=None),
        forged(user, user_id="x"),
        forged(user, user_id=None),
        forged(user, user_id="987654"),
        forged(user, hash_password="x"),
        forged(user, token_type="refresh"),
        RefreshToken.for_user(user),
        "a.b.c",
        "é",
        "x" * 10_000,
    ):
        refused(token)


def test_a_new_key_signs_and_the_old_one_verifies_what_it_signed(user, commits):
    old = str(AccessToken.for_user(user))
    with commits():
        key = rotate()
    new = str(AccessToken.for_user(user))
    assert jwt.get_unverified_header(new)["kid"] == key.kid
    assert jwt.get_unverified_header(old)["kid"] != key.kid
    assert verified(old).subject == verified(new).subject == f"user:{user.pk}"
    SigningKey.objects.exclude(pk=key.pk).update(retires=timezone.now() - timedelta(seconds=1))
    access.reset()
    refused(old)
    with commits():
        rotate()
    assert SigningKey.objects.count() == 2, "keys that verify nothing any more are gone"


def test_a_key_that_others_may_know_ends_at_once(user, commits, capsys):
    old = str(AccessToken.for_user(user))
    verified(old)
    with commits():
        call_command("rotate_key", "--revoke")
    refused(old)
    verified(AccessToken.for_user(user))
    assert "signs from now on" in capsys.readouterr().out


def test_a_key_is_no_use_without_the_secret_of_the_installation(user, settings):
    token = str(AccessToken.for_user(user))
    settings.SECRET_KEY = "another"
    refused(token)


def test_createtoken_makes_what_it_is_told(capsys):
    ServedModel.objects.create(name="a")
    call_command("createtoken", "shop", "--model", "a", "--days", "7", "--json")
    made = json.loads(capsys.readouterr().out)
    assert verified(made["token"]).models == {"a"}
    left = verified(made["token"]).expires - timezone.now().timestamp()
    assert 6.9 < left / 86400 <= 7
    for wrong in (("--model", "b"), ("--model", "a", "--role", "operate"), ("--days", "0")):
        with pytest.raises(CommandError):
            call_command("createtoken", "shop", *wrong)


def post(client, path, **body):
    return client.post(f"/api/v1/{path}", body, format="json")


def test_a_refresh_token_serves_once_and_can_be_revoked(client_as, user):
    client = client_as(None)
    pair = post(client, "token", username="ann", password="s3cret-enough").json()
    assert OutstandingToken.objects.values_list("token", flat=True).get() == ""
    second = post(client, "token/refresh", refresh=pair["refresh"]).json()
    assert verified(second["access"]).subject == f"user:{user.pk}"
    again = post(client, "token/refresh", refresh=pair["refresh"])
    assert (again.status_code, again.json()["code"]) == (401, "token-not-valid")
    assert post(client, "token/revoke", refresh=second["refresh"]).status_code == 200
    assert post(client, "token/refresh", refresh=second["refresh"]).status_code == 401


def test_a_refresh_token_ends_with_its_user_and_with_the_password(client_as, user):
    client = client_as(None)
    refresh = str(RefreshToken.for_user(user))
    user.set_password("another-s3cret")
    user.save()
    assert post(client, "token/refresh", refresh=refresh).status_code == 401
    refresh = str(RefreshToken.for_user(user))
    user.delete()
    assert post(client, "token/refresh", refresh=refresh).status_code == 401
    assert post(client, "token/refresh", refresh="rubbish").status_code == 401


@pytest.mark.contract("A4")
def test_service_tokens_are_a_resource_of_administrators(client_as, live_model):
    assert client_as("operate").get("/api/v1/tokens").status_code == 403
    administrator = client_as("administer")
    response = post(administrator, "tokens", name="shop", models=["default"])
    assert response.status_code == 201
    made = response.json()
    assert made["models"] == ["default"]
    listed = administrator.get("/api/v1/tokens?search=shop").json()["results"]
    assert [row["prefix"] for row in listed] == [made["prefix"]]
    assert "token" not in listed[0]
    program = client_as(None)
    program.credentials(HTTP_AUTHORIZATION=f"Bearer {made['token']}")
    question = {"user_id": "u", "features": [1.0, 2.0, 3.0]}
    assert post(program, "predict", **question).status_code == 200
    assert program.get("/api/v1/models").status_code == 403
    assert administrator.delete(f"/api/v1/tokens/{made['prefix']}").status_code == 204
    access.reset()
    assert post(program, "predict", **question).status_code == 401
    row = administrator.get(f"/api/v1/tokens/{made['prefix']}").json()
    assert row["valid"] is False
    assert row["revoked"]
    assert post(administrator, "tokens", name="x", role="operate", models=[]).status_code == 422
    assert post(administrator, "tokens", name="x", models=["nope"]).status_code == 422


def test_a_token_of_one_model_gets_no_other(client_as, live_model):
    ServedModel.objects.create(name="secret")
    _, text = access.create_token("shop", role="predict", models=[live_model.model])
    program = client_as(None)
    program.credentials(HTTP_AUTHORIZATION=f"Bearer {text}")
    for name in ("secret", "unknown"):
        answer = post(program, "predict", user_id="u", model_name=name)
        assert (answer.status_code, answer.json()["code"]) == (403, "model-not-permitted")
    features = [1.0, 2.0, 3.0]
    batch = post(
        program,
        "predict/batch",
        requests=[
            {"user_id": "u", "features": features},
            {"user_id": "u", "features": features, "model_name": "secret"},
        ],
    ).json()["results"]
    assert batch[0]["model_name"] == "default"
    assert batch[1]["code"] == "model-not-permitted"


def test_a_malformed_header_is_a_401_that_says_what_it_should_be(client_as):
    client = client_as(None)
    for header in ("Bearer", "Bearer a b"):
        client.credentials(HTTP_AUTHORIZATION=header)
        answer = client.get("/api/v1/models")
        assert answer.status_code == 401
        assert "Authorization: Bearer" in answer.json()["detail"]
        assert answer["WWW-Authenticate"].startswith("Bearer")


def test_the_admin_shows_a_new_token_once_and_revokes(admin_client):
    page = admin_client.post(
        "/admin/serving_app/servicetoken/add/",
        {"name": "shop", "role": "predict", "all_models": "on"},
        follow=True,
    )
    shown = page.content.decode()
    row = ServiceToken.objects.get()
    text = shown.split("<code>")[1].split("</code>")[0]
    assert row.is_text(text)
    assert str(row.created_by) == "admin"
    assert text not in admin_client.get("/admin/serving_app/servicetoken/").content.decode()
    assert (
        text
        not in admin_client.get(
            f"/admin/serving_app/servicetoken/{row.pk}/change/"
        ).content.decode()
    )
    admin_client.post(
        "/admin/serving_app/servicetoken/",
        {"action": "revoke", "_selected_action": [row.pk]},
    )
    row.refresh_from_db()
    assert not row.is_valid()
    assert admin_client.get(f"/admin/serving_app/servicetoken/{row.pk}/change/").status_code == 200


def test_the_admin_refuses_models_where_they_would_not_hold(admin_client):
    page = admin_client.post(
        "/admin/serving_app/servicetoken/add/", {"name": "shop", "role": "operate"}
    )
    assert "Only a token of the role predict" in page.content.decode()
    assert not ServiceToken.objects.exists()


def test_the_admin_rotates_keys_and_limits_groups(admin_client, client_as):
    assert admin_client.get("/admin/serving_app/signingkey/").status_code == 200
    rotates = "/admin/serving_app/signingkey/rotate/"
    assert "Do it" in admin_client.get(rotates).content.decode()
    assert not SigningKey.objects.exists(), "a link changes nothing"
    assert admin_client.post(rotates).status_code == 302
    assert SigningKey.objects.count() == 1
    group = Group.objects.get(name="recserve predict")
    page = admin_client.get(f"/admin/auth/group/{group.pk}/change/")
    assert "limit to models" in page.content.decode().lower()
