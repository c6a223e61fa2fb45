# make run    set up, build the demo, and serve on 127.0.0.1:8000 (PORT=…, DATA=DIR)
# make test   set up, servers that tests need included, and run all tests, some on PostgreSQL again
# make test-postgres  the tests that use a database, on a PostgreSQL started for them
# make check  linters, types, import directions
# make clean  remove the environment and everything that was written

PYTHON ?= python3
PORT ?= 8000
DATA ?=
VENV := .venv
BIN := $(VENV)/bin

# The tests that use a database.
ON_POSTGRES := tests/test_leftovers.py tests/cache_app/test_invalidation.py \
	tests/serving_app tests/recserve_project \
	--ignore tests/serving_app/core --ignore tests/serving_app/host --ignore tests/serving_app/demo

# Those of them in which threads and processes write at once, or that say SQL of our own.
ON_POSTGRES_TOO := tests/test_leftovers.py tests/cache_app/test_invalidation.py \
	tests/serving_app/test_activity.py tests/serving_app/test_reconciler.py \
	tests/serving_app/test_rollups.py tests/serving_app/test_warmup_runner.py

.PHONY: run test test-postgres check format clean

run: $(VENV)/.run
	@$(BIN)/python manage.py migrate --verbosity 0
	@$(BIN)/python manage.py demo --port $(PORT) $(if $(DATA),--data $(DATA))
	@$(BIN)/python manage.py serve --port $(PORT)

test: $(VENV)/.dev
	@scripts/install-test-servers
	$(BIN)/python -m pytest -n 2 --dist loadgroup
	@scripts/test-on-postgres $(BIN)/python -n 2 --dist loadgroup -q $(ON_POSTGRES_TOO)

test-postgres: $(VENV)/.dev
	@scripts/test-on-postgres $(BIN)/python -n 2 --dist loadgroup -q $(ON_POSTGRES)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python manage.py check --fail-level WARNING
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/python manage.py spectacular --validate --fail-on-warn --file /dev/null

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) var

$(BIN)/python:
	@scripts/make-venv $(PYTHON) $(VENV)

$(VENV)/.run: requirements.txt requirements/*.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements/dev.txt
	@touch $@
