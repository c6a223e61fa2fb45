"""A key says what it was built of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_app.core.key_parts import parts_of
from cache_app.core.keys import recommendation_key

pytestmark = pytest.mark.contract("O1")

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(st.one_of(texts, st.integers()), texts, texts, st.integers(1, 99), st.booleans())
def test_what_went_in_comes_out(user, model, segment, version, more):
    key = recommendation_key(
        namespace="n:s",
        model_name=model,
        version=version,
        fingerprint="9f86d081",
        segment=segment,
        user_id=user,
        context={"page": "home"} if more else {},
        features_digest=b"\x01" if more else "",
        generation="7",
    )
    parts = parts_of(key)
    assert (parts.model_name, parts.version, parts.segment) == (model, version, segment)
    assert parts.user_id == user
    assert type(parts.user_id) is type(user)
    assert parts.generation == "7"
    assert bool(parts.context) == more
    assert parts.features == ("01" if more else "")


@pytest.mark.parametrize(
    "key", ["", "a:b", "a:b:c-d:e:i1:-:-:0", "a:b:1-d:e::-:-:0", "a:b:1-d:e:ix:-:-:0"]
)
def test_rubbish_is_refused(key):
    with pytest.raises(ValueError, match="no key of a cached answer"):
        parts_of(key)
