#!/usr/bin/env bash
# The tests that need no server, on the oldest and the newest langchain-core, with the package installed as a wheel.
set -euo pipefail
cd "$(dirname "$0")/.."
for core in "langchain-core==1.0.0" "langchain-core>=1.6.4,<2"; do
  echo "On $core"
  uv run --quiet --isolated --no-project --with ".[all,testing]" --with "$core" --with "hypothesis<7" --with pytest-asyncio \
    pytest -q -p no:cacheprovider tests/unit_tests/test_{package,codec,memory,neutral,clients}.py
done
