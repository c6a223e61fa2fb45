import hashlib

import pytest

from plugins import ArtifactRejected
from serving_app.core.artifacts import digest, locate


def test_a_file_of_the_store_is_found(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "m.pt").write_bytes(b"x")
    assert locate(tmp_path, "a/m.pt") == (tmp_path / "a" / "m.pt").resolve()


@pytest.mark.contract("S1")
@pytest.mark.parametrize("path", ["../secret", "a/../../secret", "/etc/passwd", "", ".", "link"])
def test_nothing_outside_the_store_is_found(tmp_path, path):
    store = tmp_path / "store"
    store.mkdir()
    (tmp_path / "secret").write_text("s")
    (store / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ArtifactRejected, match="outside the model store"):
        locate(store, path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ArtifactRejected, match=r"'gone\.pt' does not exist"):
        locate(tmp_path, "gone.pt")


def test_a_files_digest_is_its_sha256(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(b"weights")
    assert digest(path) == hashlib.sha256(b"weights").hexdigest()


def test_a_directorys_digest_covers_names_and_contents(tmp_path):
    def make(name, files):
        folder = tmp_path / name
        for path, content in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)
        return digest(folder)

    original = make("one", {"a/x": "1", "b": "2"})
    assert make("two", {"b": "2", "a/x": "1"}) == original
    assert make("three", {"a/x": "2", "b": "1"}) != original
    assert make("four", {"a/y": "1", "b": "2"}) != original


def test_a_link_inside_an_artifact_is_refused(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").symlink_to("/etc/passwd")
    with pytest.raises(ArtifactRejected, match="symbolic link"):
        digest(folder)
