# Everything here installs what it needs, in this folder but for the servers that only the system's packages have.

UV := $(shell command -v uv || echo .tools/bin/uv)

.PHONY: demo test format benchmarks

demo: $(UV)  ## two processes, one conversation, on SQLite
	@$(UV) sync --quiet --no-dev --extra sql
	@$(UV) run --no-sync python notebooks/demo.py

test: environment  ## lint, types, unit tests, the kit on real servers, README and notebooks
	$(UV) run --no-sync ruff check .
	$(UV) run --no-sync ruff format --check .
	$(UV) run --no-sync mypy
	$(UV) run --no-sync pytest
	$(UV) run --no-sync tests/other_versions.sh
	$(UV) run --no-sync tests/yugabytedb.sh

format: environment  ## format, and fix what can be fixed
	$(UV) run --no-sync ruff check --fix .
	$(UV) run --no-sync ruff format .

benchmarks: environment  ## the tables of the README
	$(UV) run --no-sync python benchmarks/run.py
	$(UV) run --no-sync python benchmarks/summaries.py

.PHONY: environment
environment: $(UV)
	$(UV) sync --quiet --all-extras --no-extra yugabytedb --group dev
	tests/install_servers.sh

.tools/bin/uv:
	python3 -m venv .tools
	.tools/bin/pip install --quiet uv
