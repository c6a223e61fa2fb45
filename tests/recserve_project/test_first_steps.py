"""A fresh installation says what to do next, and stops when it is done."""

import json
import re
import shlex
from html import unescape

import pytest
from django.contrib.auth.models import Group

from serving_app import promotion, registration, wiring
from serving_app.access import create_token
from serving_app.models import ServedModel
from tests.conftest import linear_draft

pytestmark = [pytest.mark.django_db, pytest.mark.contract("O1")]


def steps(client):
    page = client.get("/admin/").content.decode()
    return re.findall(r'<li data-done="(\w+)">.*?<strong>(.*?)</strong>', page, re.DOTALL)


def done(client):
    return [title for is_done, title in steps(client) if is_done == "yes"]


def test_the_list_ticks_itself_off(admin_client, fresh, store):
    assert done(admin_client) == []
    ServedModel.objects.create(name="default")
    assert done(admin_client) == ["Name a model"]
    version = registration.register("default", linear_draft(store))
    assert done(admin_client)[1:] == ["Register a version"]
    promotion.promote(version)
    assert done(admin_client)[2:] == ["Make it live"]
    row, _text = create_token("till", role="predict")
    assert done(admin_client)[3:] == ["Get a token"]
    row.revoke()
    assert done(admin_client)[3:] == [], "a revoked token is none"
    create_token("till 2", role="predict")
    wiring.get_serving().reconciler.reconcile()
    page = unescape(admin_client.get("/admin/").content.decode())
    command = re.search(r'<pre class="rs-code" tabindex="0">(curl.*?)</pre>', page, re.DOTALL)[1]
    words = shlex.split(command.replace("\\\n", " "))
    assert words[2] == "http://testserver/api/v1/predict"
    question = json.loads(words[words.index("-d") + 1])
    assert question == {"user_id": "1", "features": {"age": 1.0, "visits": 1.0, "spend": 1.0}}
    token = create_token("caller", role="predict")[1]
    answer = admin_client.post(
        "/api/v1/predict", question, content_type="application/json",
        HTTP_AUTHORIZATION=f"Bearer {token}",
    )  # fmt: skip
    assert answer.status_code == 200
    wiring.get_serving().activity.flush(at_once=True)
    left = [title for is_done, title in steps(admin_client) if is_done == "no"]
    assert left in ([], ["Add a schedule"]), "all others are done"


def test_the_command_names_a_model_that_is_not_the_default(admin_client, fresh, store):
    promotion.promote(registration.register("shoes", linear_draft(store)))
    page = unescape(admin_client.get("/admin/").content.decode())
    assert '"model_name": "shoes"' in page


def test_who_may_not_add_gets_no_link_and_who_may_not_operate_no_list(
    client, fresh, django_user_model
):
    user = django_user_model.objects.create_user("vera", password="x", is_staff=True)
    client.force_login(user)
    assert steps(client) == []
    user.groups.add(Group.objects.get(name="recserve operate"))
    assert len(steps(client)) >= 5
    page = client.get("/admin/").content.decode()
    assert "/admin/serving_app/servedmodel/add/" not in page
    assert "manage.py createtoken" in page


def test_the_navigation_has_what_one_may_open(client, fresh, django_user_model):
    def links():
        page = client.get("/admin/").content.decode()
        return set(re.findall(r'href="(/admin/[^"?#]+)"', page))

    user = django_user_model.objects.create_user("vera", password="x", is_staff=True)
    client.force_login(user)
    assert not links() & {"/admin/dashboard/", "/admin/cache/", "/admin/auth/user/"}
    user.groups.add(Group.objects.get(name="recserve operate"))
    assert {"/admin/dashboard/", "/admin/cache/", "/admin/serving_app/servedmodel/"} <= links()
    assert "/admin/auth/user/" not in links()
    opened = {link: client.get(link).status_code for link in links() if "logout" not in link}
    assert {link for link, status in opened.items() if status == 403} == set()
