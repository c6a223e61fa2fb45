"""Settings of the tests: the deployment's, with everything it writes in a folder of its own."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

VAR = Path(tempfile.mkdtemp(prefix="recserve-tests-"))
atexit.register(shutil.rmtree, VAR, ignore_errors=True)
os.environ["RECSERVE_VAR"] = str(VAR)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from recserve_project.settings import *  # noqa: E402, F403

if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":  # noqa: F405
    # The tests' database is in memory, where a thread that reads a table has another's write into
    # it fail at once, as no file's does. Who reads without a lock disturbs nobody.
    DATABASES["default"]["OPTIONS"]["init_command"] += " PRAGMA read_uncommitted = 1;"  # noqa: F405
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # fast, for tests alone
# L1 alone: nothing that one test cached is there for another. Tests of L2 ask for it.
# No throttles either: how fast a test asks must not decide it. Tests of throttles set them.
RECSERVE = {
    "SERVING": RECSERVE["SERVING"],  # noqa: F405
    "WARM_UP": {"SCHEDULER": False},  # a test runs what is due when it wants to
    "ACCESS": {"THROTTLES": dict.fromkeys(("predict", "operate", "administer", "sign_in"))},
}
