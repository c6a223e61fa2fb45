import io
import json
import re
import zipfile

import numpy as np
import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, Permission
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse

from serving_app import registration, wiring
from serving_app.models import ModelVersion, ServedModel
from tests.conftest import FEATURES, ITEMS, expected_ranking, linear_draft, write_catalogue

pytestmark = [pytest.mark.django_db, pytest.mark.contract("O1")]

ADD = "/admin/serving_app/modelversion/add/"
VERSIONS = "/admin/serving_app/modelversion/"
MODELS = "/admin/serving_app/servedmodel/"


@pytest.fixture
def model(fresh):
    return ServedModel.objects.create(name="shop")


def form(model, **changes):
    return {
        "model": model.pk,
        "framework": "numpy_linear",
        "framework_options": "{}",
        "artifact": "linear.npz",
        "catalogue": "catalogue.csv",
        "feature_names": "age, visits\nspend",
        "feature_source": "",
        "feature_source_options": "{}",
        "sha256": "",
        "notes": "first",
        **changes,
    }


def act(client, url, action, *rows):
    data = {"action": action, "_selected_action": [row.pk for row in rows]}
    return client.post(url, data, follow=True)


def do(client, url, action, *rows):
    """Choose an action, and confirm it."""
    data = {"action": action, "_selected_action": [row.pk for row in rows], "confirmed": "yes"}
    return client.post(url, data, follow=True)


def test_a_version_is_registered_from_a_path_in_the_store(admin_client, model, store):
    linear_draft(store)
    response = admin_client.post(ADD, form(model), follow=True)
    assert response.status_code == 200
    version = ModelVersion.objects.get()
    assert str(version) == "shop@1"
    assert version.feature_names == list(FEATURES)
    assert version.created_by.username == "admin"
    page = admin_client.get(f"{VERSIONS}{version.pk}/change/").content.decode()
    assert version.sha256 in page
    assert "age, visits, spend" in page
    assert LogEntry.objects.filter(object_id=str(version.pk)).exists()


def test_a_version_is_registered_from_uploads(admin_client, model, store):
    linear_draft(store)
    uploads = {
        "artifact_upload": SimpleUploadedFile("m.npz", (store / "linear.npz").read_bytes()),
        "catalogue_upload": SimpleUploadedFile("c.csv", (store / "catalogue.csv").read_bytes()),
    }
    admin_client.post(ADD, form(model, artifact="", catalogue="", **uploads))
    version = ModelVersion.objects.get()
    assert version.artifact.startswith("uploads/")
    assert (store / version.artifact).exists()


def test_a_version_with_schema_item_vectors_and_output_is_registered(admin_client, model, store):
    linear_draft(store)
    buffer = io.BytesIO()
    np.save(buffer, np.eye(20, dtype=np.float32))
    schema = [{"name": name, "input": "features"} for name in FEATURES]
    given = form(
        model,
        feature_names="",
        feature_schema=json.dumps(schema),
        output="embedding",
        output_options='{"metric": "cosine"}',
        item_vectors_upload=SimpleUploadedFile("vectors.npy", buffer.getvalue()),
    )
    response = admin_client.post(ADD, given, follow=True)
    assert response.status_code == 200
    version = ModelVersion.objects.get()
    assert version.feature_names == list(FEATURES)
    assert version.feature_schema == schema
    assert version.output == "embedding"
    assert version.output_options == {"metric": "cosine", "output": "scores"}
    assert version.item_vectors.endswith("vectors.npy")
    page = admin_client.get(f"{VERSIONS}{version.pk}/change/").content.decode()
    assert "a vector, compared with each item" in page


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"artifact": "../x"}, "outside the model store"),
        ({"artifact": ""}, "or upload it"),
        ({"sha256": "0" * 64}, "as declared"),
        ({"feature_names": "age"}, "takes 3 features"),
        ({"framework": "pytorch"}, "torch.jit.save"),
        ({"framework_options": "[1"}, "valid JSON"),
        ({"framework_options": '{"x": 1}'}, "no option"),
    ],
)
def test_what_is_wrong_is_said_in_the_form(admin_client, model, store, changes, says):
    linear_draft(store)
    response = admin_client.post(ADD, form(model, **changes))
    assert response.status_code == 200
    assert says in response.content.decode()
    assert not ModelVersion.objects.exists()


def zipped(names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("corrupt.npz", b"rubbish", "no .npz file"),
        ("evil.zip", zipped(["../../evil"]), "unsafe path"),
        ("corrupt.zip", b"PK rubbish", "no zip file"),
        ("empty.zip", zipped(["readme"]), "takes an .npz"),
    ],
)
def test_a_bad_upload_is_refused_and_not_kept(admin_client, model, store, name, content, says):
    linear_draft(store)
    upload = SimpleUploadedFile(name, content)
    response = admin_client.post(ADD, form(model, artifact="", artifact_upload=upload))
    assert says in response.content.decode()
    assert not ModelVersion.objects.exists()
    assert list((store / "uploads").iterdir()) == []
    assert not (store.parent / "evil").exists()


def test_only_the_notes_of_a_version_change(admin_client, model, store):
    version = registration.register("shop", linear_draft(store))
    url = f"{VERSIONS}{version.pk}/change/"
    admin_client.post(url, {"notes": "better words", "artifact": "other", "sha256": "0" * 64})
    changed = ModelVersion.objects.get()
    assert (changed.notes, changed.artifact) == ("better words", version.artifact)
    assert changed.sha256 == version.sha256


def test_make_live_validate_and_roll_back_are_actions(admin_client, model, store):
    one, two = (registration.register("shop", linear_draft(store, seed=s)) for s in (1, 1))
    do(admin_client, VERSIONS, "make_live", one)
    page = do(admin_client, VERSIONS, "make_live", two).content.decode()
    assert "shop@2 will be live as soon as it is loaded" in page
    model.refresh_from_db()
    assert model.live_version == two
    page = do(admin_client, MODELS, "roll_back", model).content.decode()
    model.refresh_from_db()
    assert model.live_version == one
    page = do(admin_client, MODELS, "roll_back", model).content.decode()
    assert "no earlier live version" in page
    assert "shop@1 is valid" in act(admin_client, VERSIONS, "validate", one).content.decode()
    (store / one.artifact).write_bytes(b"rubbish")
    assert "as declared" in act(admin_client, VERSIONS, "validate", one).content.decode()
    assert "failed its last" in do(admin_client, VERSIONS, "make_live", one).content.decode()
    page = do(admin_client, VERSIONS, "make_live", one, two).content.decode()
    assert "Choose one version" in page
    history = [entry.get_change_message() for entry in LogEntry.objects.filter(object_id=model.pk)]
    assert "Made shop@2 live" in history
    assert "Rolled back to shop@1" in history


def test_what_a_promotion_changes_is_shown_before_it_does(admin_client, model, store):
    one = registration.register("shop", linear_draft(store, seed=1, metrics={"hr_10": 0.4}))
    page = act(admin_client, VERSIONS, "make_live", one).content.decode()
    assert "Make live: shop@1" in page
    assert model.live_version is None, "nothing has changed yet"
    do(admin_client, VERSIONS, "make_live", one)
    write_catalogue(store, "other.csv", items=ITEMS)
    lines = (store / "other.csv").read_text().replace("i0,", "new0,").replace("i1,", "new1,")
    (store / "other.csv").write_text(lines)
    other = {"catalogue": "other.csv", "metrics": {"hr_10": 0.5}}
    two = registration.register("shop", linear_draft(store, "two.npz", seed=2, **other))
    page = act(admin_client, VERSIONS, "make_live", two).content.decode()
    shown = dict(re.findall(r'<th scope="row">(.*?)</th>\s*<td>(.*?)</td>', page, re.DOTALL))
    assert shown["version"] == "shop@1"
    assert one.sha256[:12] in shown["artifact"]
    assert two.sha256[:12] in page
    assert "2 gone then: i0, i1" in page
    assert "2 new: new0, new1" in page
    assert "0.4" in shown["quality figures"]
    assert "signature" not in shown, "it is the same"
    assert model.aliases.get().version == one
    do(admin_client, VERSIONS, "make_live", two)
    page = act(admin_client, MODELS, "roll_back", model).content.decode()
    assert "Roll back: shop@1" in page
    assert model.aliases.get().version == two
    do(admin_client, MODELS, "roll_back", model)
    assert model.aliases.get().version == one


def test_catalogues_that_cannot_be_read_are_said(admin_client, model, store):
    one = registration.register("shop", linear_draft(store, seed=1))
    do(admin_client, VERSIONS, "make_live", one)
    write_catalogue(store, "other.csv")
    (store / "other.csv").write_text((store / "other.csv").read_text().replace("i0,", "n0,"))
    two = registration.register("shop", linear_draft(store, "two.npz", catalogue="other.csv"))
    (store / "other.csv").unlink()
    page = act(admin_client, VERSIONS, "make_live", two).content.decode()
    assert "cannot be compared" in page
    assert "Do it" in page


def test_try_it_shows_items_with_titles_and_scores(admin_client, live_model, store):
    url = reverse("admin:serving_app_servedmodel_try", args=(live_model.model.pk,))
    best = expected_ranking(store, "linear.npz", [1, 2, 3])
    data = {"user_id": "u", "k": 3, "exclude": best[1], "features": "[1, 2, 3]"}
    page = admin_client.post(url, data).content.decode()
    for item in (best[0], best[2], best[3]):
        assert item in page
        assert f"Item number {item[1:]}" in page
    assert "Version 1 answered from model" in page
    wrong = admin_client.post(url, {**data, "features": "[1]"}).content.decode()
    assert "has 1 values, but the model takes 3" in wrong
    assert "At most 1000" in admin_client.post(url, {**data, "k": 5000}).content.decode()


def test_permissions_decide_what_a_staff_user_may_do(client, model, store, django_user_model):
    version = registration.register("shop", linear_draft(store))
    user = django_user_model.objects.create_user("op", password="x", is_staff=True)
    user.groups.add(Group.objects.get(name="recserve operate"))
    client.force_login(user)
    assert client.get(MODELS).status_code == 200
    assert client.get(ADD).status_code == 403
    do(client, VERSIONS, "make_live", version)
    model.refresh_from_db()
    assert model.live_version is None
    user.groups.set([Group.objects.get(name="recserve administer")])
    do(client, VERSIONS, "make_live", version)
    model.refresh_from_db()
    assert model.live_version == version


def test_every_page_opens(admin_client, live_model):
    wiring.get_serving().reconciler.reconcile()
    for url in (
        "/admin/",
        MODELS,
        f"{MODELS}add/",
        f"{MODELS}{live_model.model.pk}/change/",
        f"{MODELS}{live_model.model.pk}/history/",
        VERSIONS,
        ADD,
        f"{VERSIONS}{live_model.pk}/change/",
        "/admin/serving_app/activation/",
        "/admin/auth/user/",
        "/admin/auth/group/",
        "/admin/cache/",
        "/admin/plugins/",
    ):
        assert admin_client.get(url).status_code == 200, url


def test_the_groups_of_the_roles_exist_with_their_permissions():
    codenames = {
        group.name: set(group.permissions.values_list("codename", flat=True))
        for group in Group.objects.all()
    }
    assert codenames["recserve predict"] == {"predict"}
    assert {"predict", "operate", "view_modelversion"} <= codenames["recserve operate"]
    assert "add_modelversion" not in codenames["recserve operate"]
    administer = Permission.objects.filter(content_type__app_label="serving_app")
    assert codenames["recserve administer"] == set(administer.values_list("codename", flat=True))
