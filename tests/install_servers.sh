#!/usr/bin/env bash
# Install the servers the integration tests start that pip cannot install.
#
#   MariaDB   the only MariaDB the tests can use
#   Redis     for the TLS tests and as a second implementation beside Valkey
#   Kafka     the Apache broker, from Maven's central repository, into .cache/kafka; Java and Maven for it
#
# Redis-compatible Valkey, PostgreSQL and the MongoDB stand-in come with the Python test
# dependencies, so they need nothing from here. See tests/servers/ for what each server is.
#
# Safe to run again: it does nothing when everything is there. The packages' own daemons are
# not started; the tests start the programs themselves, on 127.0.0.1 with temporary data.
set -euo pipefail

log() { printf 'install_servers: %s\n' "$*"; }
die() {
  printf 'install_servers: %s\n' "$*" >&2
  exit 1
}

# Server programs live in sbin, which is not on every user's PATH.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
export PATH

packages=()
if ! { command -v mariadbd && command -v mariadb-install-db; } >/dev/null; then
  packages+=(mariadb-server)
fi
if ! command -v redis-server >/dev/null; then
  packages+=(redis-server)
fi

here="$(cd "$(dirname "$0")" && pwd)"
kafka="$here/../.cache/kafka"
kafka_complete() { (cd "$kafka" 2>/dev/null && sha256sum --quiet --status -c "$here/servers/kafka/sha256sums" 2>/dev/null); }
install_kafka() {
  kafka_complete && return
  log "fetching Apache Kafka"
  rm -rf "$kafka"
  mvn -q -B -f "$here/servers/kafka/pom.xml" dependency:copy-dependencies -DoutputDirectory="$kafka"
  kafka_complete || die "what was fetched of Apache Kafka is not what tests/servers/kafka/sha256sums says"
}
if ! command -v java >/dev/null; then
  packages+=(default-jre-headless)
fi
if ! kafka_complete && ! command -v mvn >/dev/null; then
  packages+=(maven)
fi

if [ "${#packages[@]}" -eq 0 ]; then
  install_kafka
  log "everything is there"
  exit 0
fi

if ! command -v apt-get >/dev/null; then
  die "please install by hand, with your system's package manager: ${packages[*]}
  (programs needed: mariadbd, mariadb-install-db, redis-server, java and mvn; their tests skip until then)"
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
install_kafka
log "done"
