#!/usr/bin/env bash
# A PostgreSQL server for a test, in a directory of its own, on a Unix socket there and no port.
#
#     postgres.sh start DIR     then: psql "host=DIR user=postgres dbname=postgres"
#     postgres.sh stop DIR      at once, as a crash would; `restart` likewise, and starts it again
#
# Exits with 77 where no server is installed. As root it runs as the user postgres, since the server refuses root.
set -euo pipefail
command=${1:?start, stop or restart}
directory=$(realpath -m "${2:?a directory}")

bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1 || true)
if [[ -z $bin || ! -x $bin/initdb ]]; then
  echo "postgres.sh: no PostgreSQL server is installed (Debian: postgresql-15)" >&2
  exit 77
fi

as_server() {
  if ((EUID == 0)); then
    # A directory that its user may enter: the caller's may be root's own.
    (cd / && setpriv --reuid=postgres --regid=postgres --init-groups "$@")
  else
    "$@"
  fi
}

start() {
  # The server's own log goes to a file: it must not hold the caller's output open. Killed processes are what is tested,
  # not power failures, so nothing need be synced.
  as_server "$bin/pg_ctl" -D "$directory/data" -l "$directory/log" -s -w -t 60 \
    -o "-k '$directory' -c listen_addresses= -c fsync=off -c full_page_writes=off -c max_connections=200" start
}

case $command in
  start)
    mkdir -p "$directory"
    if ((EUID == 0)); then chown postgres: "$directory"; fi
    as_server "$bin/initdb" -D "$directory/data" -U postgres -A trust -E UTF8 --no-sync >"$directory.initdb" 2>&1 || {
      cat "$directory.initdb" >&2
      exit 1
    }
    rm -f "$directory.initdb"
    start
    ;;
  stop) as_server "$bin/pg_ctl" -D "$directory/data" -s -w -m immediate stop ;;
  restart)
    as_server "$bin/pg_ctl" -D "$directory/data" -s -w -m immediate stop
    start
    ;;
  *)
    echo "postgres.sh: no command $command" >&2
    exit 2
    ;;
esac
