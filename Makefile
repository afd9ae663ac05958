# Everything here installs what it needs, in this folder but for the servers that only the system's packages have.

UV := $(shell command -v uv || echo .tools/bin/uv)
RUN := $(UV) run --no-sync
# Another process gains nothing on two cores: the servers need them too.
WORKERS ?= 2
PYTEST := $(RUN) pytest --numprocesses=$(WORKERS)
export PATH := $(PATH):$(CURDIR)/.tools/bin
# The tests start hundreds of processes. Each would compile all that it imports again where this is set.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo check test format benchmarks

demo: $(UV)  ## two processes, one conversation, on SQLite
	@$(UV) sync --quiet --no-dev --extra sql
	@$(UV) run --no-sync python notebooks/demo.py

check: packages lint  ## what needs no server: lint, types, unit tests
	@$(MAKE) --no-print-directory --jobs=2 tests-without-servers types

test: packages servers lint  ## what check does, the kit on real servers, README, notebooks, other versions
	@$(MAKE) --no-print-directory --jobs=2 all-tests types-and-other-versions

format: packages  ## format, and fix what can be fixed
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

benchmarks: packages servers  ## the tables of the README
	$(RUN) python benchmarks/run.py
	$(RUN) python benchmarks/summaries.py
	$(RUN) python benchmarks/services.py
	$(RUN) python benchmarks/copying.py
	$(RUN) python benchmarks/editing.py
	$(RUN) python benchmarks/chat_stores.py
	$(RUN) python benchmarks/listing.py

# What these consist of.

.PHONY: packages servers lint types tests-without-servers all-tests types-and-other-versions

packages: $(UV)
	$(UV) sync --quiet --all-extras --no-extra yugabytedb --group dev

.tools/bin/uv:
	python3 -m venv .tools
	.tools/bin/pip install --quiet uv

servers:
	tests/install_servers.sh

lint: packages
	$(RUN) ruff check .
	$(RUN) ruff format --check .

types:
	$(RUN) mypy
	$(RUN) mypy tests/typing_tests
	$(RUN) pyright

tests-without-servers:
	$(PYTEST) tests/unit_tests

all-tests:
	$(PYTEST) --junitxml=.cache/tests.xml
	$(RUN) python tests/rules.py tests/rules_before.txt .cache/tests.xml

# Into files, because this would come amid what the tests print.
types-and-other-versions: types
	tests/other_versions.sh > .cache/other_versions.log 2>&1 || { cat .cache/other_versions.log; exit 1; }
	tests/yugabytedb.sh > .cache/yugabytedb.log 2>&1 || { cat .cache/yugabytedb.log; exit 1; }
	cat .cache/other_versions.log .cache/yugabytedb.log
