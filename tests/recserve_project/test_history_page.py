"""Who did what: what the admin and the API change stands on one page."""

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import Group
from django.contrib.contenttypes.models import ContentType

from serving_app.access import create_token
from serving_app.models import ServedModel
from tests.conftest import linear_draft

pytestmark = [pytest.mark.django_db, pytest.mark.contract("O1")]

PAGE = "/admin/history/"
API = "/api/v1/"


def messages():
    return [
        (entry.user.username, str(entry.object_repr), entry.get_change_message())
        for entry in LogEntry.objects.order_by("pk")
    ]


def test_what_the_api_changes_is_in_the_history(client_as, fresh, store):
    api = client_as("administer")
    linear_draft(store)
    assert api.post(f"{API}models", {"name": "shop"}, format="json").status_code == 201
    api.patch(f"{API}models/shop", {"description": "Shoes", "timeout": 3.0}, format="json")
    version = {
        "artifact": "linear.npz", "framework": "numpy_linear", "catalogue": "catalogue.csv",
        "feature_names": ["age", "visits", "spend"],
    }  # fmt: skip
    assert api.post(f"{API}models/shop/versions", version, format="json").status_code == 201
    api.post(f"{API}models/shop/versions/1/validate")
    token = api.post(f"{API}tokens", {"name": "till"}, format="json").json()
    api.delete(f"{API}tokens/{token['prefix']}")
    api.delete(f"{API}models/shop/versions/1")
    assert api.delete(f"{API}models/shop").status_code == 204
    who = "administer-user"
    assert [(by, message) for by, _, message in messages()] == [
        (who, "Added by the API"),
        (who, "Changed description, timeout by the API"),
        (who, "Registered by the API"),
        (who, "Validated by the API"),
        (who, "Given by the API"),
        (who, "Revoked by the API"),
        (who, "Deleted by the API"),
        (who, "Deleted by the API"),
    ]


@pytest.mark.parametrize(
    ("path", "body", "change"),
    [
        ("warmup-schedules", {"name": "x", "model": "shop", "interval": 3600, "budget": 5,
            "strategies": [{"strategy": "popular"}]}, {"budget": 9}),
        ("segments", {"name": "x", "conditions": [
            {"field": "requests", "comparison": "ge", "value": 5}]}, {"order": 7}),
        ("alert-rules", {"name": "x", "metric": "p99", "threshold": 0.2, "window": 300},
            {"severity": "info"}),
        ("alert-channels", {"name": "x", "kind": "log"}, {"enabled": False}),
        ("alert-silences", {"reason": "x", "ends": "2100-01-01T00:00:00Z"}, None),
    ],
)  # fmt: skip
def test_what_becomes_of_each_resource_is_in_the_history(client_as, fresh, path, body, change):
    ServedModel.objects.create(name="shop")
    administrator, operator = client_as("administer"), client_as("operate")
    api = operator if path == "alert-silences" else administrator
    made = api.post(f"{API}{path}", body, format="json")
    assert made.status_code == 201, made.content
    url = f"{API}{path}/{made.json().get('id', 'x')}"
    expected = ["Added by the API"]
    if change is not None:
        assert api.patch(url, change, format="json").status_code == 200
        expected.append(f"Changed {', '.join(change)} by the API")
    assert api.delete(url).status_code == 204
    assert [message for _, _, message in messages()] == [*expected, "Deleted by the API"]


def test_what_a_program_does_stands_under_who_gave_it_its_token(
    client, fresh, store, django_user_model
):
    person = django_user_model.objects.create_user("ada")
    for by, name in ((person, "one"), (None, "two")):
        row, text = create_token(f"for {name}", role="administer", by=by)
        headers = {"HTTP_AUTHORIZATION": f"Bearer {text}"}
        answer = client.post(
            f"{API}models", {"name": name}, content_type="application/json", **headers
        )
        assert answer.status_code == 201
        if by is not None:
            prefix = row.prefix
    assert messages() == [("ada", "one", f"Added by the API (service token {prefix})")]


@pytest.fixture
def entries(django_user_model):
    ada, bob = (django_user_model.objects.create_user(name) for name in ("ada", "bob"))
    model = ServedModel.objects.create(name="shop")
    kinds = {m: ContentType.objects.get_for_model(m) for m in (ServedModel, Group)}
    for n in range(60):
        LogEntry.objects.create(
            user=(ada, bob)[n % 2], content_type=kinds[(ServedModel, Group)[n % 3 == 0]],
            object_id=str(model.pk), object_repr=f"thing {n}", action_flag=CHANGE,
            change_message="became <b>better",
        )  # fmt: skip
    return model


def test_it_is_shown_filtered_and_in_pages(admin_client, entries):
    page = admin_client.get(PAGE).content.decode()
    assert "page 1 of 2" in page
    assert "thing 59" in page
    assert "<b>better" not in page
    assert f"/admin/serving_app/servedmodel/{entries.pk}/change/" in page
    assert "thing 9<" in admin_client.get(PAGE, {"page": 2}).content.decode()
    ada = admin_client.get(PAGE, {"by": "ada"}).content.decode()
    assert "thing 58" in ada
    assert "thing 59" not in ada
    groups = admin_client.get(PAGE, {"kind": "auth.group"}).content.decode()
    assert "thing 57" in groups
    assert "thing 58" not in groups
    one = admin_client.get(PAGE, {"text": "thing 42"}).content.decode()
    assert "thing 42" in one
    assert "thing 41" not in one
    assert "Nothing fits" in admin_client.get(PAGE, {"text": "no such"}).content.decode()
    for query in ({"page": "x"}, {"page": "99"}, {"kind": "rubbish"}, {"by": "x" * 1000}):
        assert admin_client.get(PAGE, query).status_code == 200


def test_an_empty_history_says_what_will_stand_there(admin_client):
    assert "Nothing was changed yet" in admin_client.get(PAGE).content.decode()


def test_a_link_is_only_for_who_may_follow_it(client, entries, django_user_model):
    user = django_user_model.objects.create_user("olga", password="x", is_staff=True)
    client.force_login(user)
    assert client.get(PAGE).status_code == 403
    user.groups.add(Group.objects.get(name="recserve operate"))
    page = client.get(PAGE).content.decode()
    assert "/admin/serving_app/servedmodel/" in page
    assert "/admin/auth/group/" not in page
