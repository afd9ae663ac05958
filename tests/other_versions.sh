#!/usr/bin/env bash
# The tests that need no server, on the oldest and the newest LangChain, with the package installed as a wheel.
set -euo pipefail
cd "$(dirname "$0")/.."
on() {  # the extras, the other requirements, and behind -- the tests
  echo "On $*"
  local extras=$1 requirements=()
  shift
  for requirement in "$@"; do
    shift
    [[ $requirement == -- ]] && break
    requirements+=(--with "$requirement")
  done
  uv run --quiet --isolated --no-project --with ".[$extras,testing]" "${requirements[@]}" \
    --with "hypothesis<7" --with pytest-asyncio --with langgraph-checkpoint-sqlite \
    pytest -q -p no:cacheprovider -rs "${@/#/tests/unit_tests/test_}"
}
without_agents=redis,upstash,postgres,mysql,mongodb,dynamodb,kafka,azure-table,cosmosdb,tablestore,yaml,tiktoken,langgraph
core=({package,codec,memory,neutral,clients,runnable,langgraph}.py)
# langgraph-prebuilt is bounded here because later ones need a newer langgraph than they say.
on $without_agents "langchain-core==1.0.0" "langgraph==1.0.2" "langgraph-prebuilt<=1.0.5" langchain -- "${core[@]}"
on $without_agents,agents "langchain==1.2.4" "langgraph-prebuilt<1.0.8" -- agents.py
on $without_agents,agents "langchain-core>=1.6.4,<2" "langchain>=1.4" -- "${core[@]}" agents.py
