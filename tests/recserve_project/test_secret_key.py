import stat
from concurrent.futures import ThreadPoolExecutor

from recserve_project.secret_key import read_or_create


def test_a_key_is_made_once_is_long_and_only_its_owners(tmp_path):
    path = tmp_path / "new" / "secret.key"
    key = read_or_create(path)
    assert len(key) >= 64
    assert read_or_create(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["secret.key"]


def test_processes_that_start_together_agree_on_the_key(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(read_or_create, [tmp_path / "secret.key"] * 64))
    assert len(keys) == 1
