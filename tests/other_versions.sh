#!/usr/bin/env bash
# The tests that need no server, on the oldest and the newest LangChain, with the package installed as a wheel.
set -euo pipefail
cd "$(dirname "$0")/.."
on() {  # a name, the extras, the other requirements, and behind -- the tests
  local environment=.cache/environments/$1 requirements=(".[$2,testing]")
  echo "On ${*:3}"
  shift 2
  for requirement in "$@"; do
    shift
    [[ $requirement == -- ]] && break
    requirements+=("$requirement")
  done
  requirements+=("hypothesis<7" pytest-asyncio langgraph-checkpoint-sqlite)
  # The environment is kept, because all that is compiled in it would take longer than the tests. Its packages are chosen
  # anew, and so is the wheel: uv does not see that a file of the package has changed.
  [[ -x $environment/bin/python ]] || uv venv --quiet "$environment"
  printf '%s\n' "${requirements[@]}" |
    uv pip compile --quiet --upgrade --python "$environment/bin/python" -o "$environment/requirements.txt" -
  uv pip sync --quiet --python "$environment/bin/python" --reinstall-package langchain-histories \
    "$environment/requirements.txt"
  "$environment/bin/pytest" -q -p no:cacheprovider -rs "${@/#/tests/unit_tests/test_}"
}
without_agents=redis,upstash,postgres,mysql,mongodb,dynamodb,kafka,azure-table,cosmosdb,tablestore,yaml,tiktoken,langgraph
core=({package,codec,memory,neutral,clients,runnable,langgraph}.py)
# langgraph-prebuilt is bounded here because later ones need a newer langgraph than they say.
on oldest $without_agents "langchain-core==1.0.0" "langgraph==1.0.2" "langgraph-prebuilt<=1.0.5" langchain -- "${core[@]}"
on oldest-agents $without_agents,agents "langchain==1.2.4" "langgraph-prebuilt<1.0.8" -- agents.py
on newest $without_agents,agents "langchain-core>=1.6.4,<2" "langchain>=1.4" -- "${core[@]}" agents.py
on oldest-llama-index sql,redis,llama-index "llama-index-core==0.14.5" -- llama_index.py llama_index_places.py
