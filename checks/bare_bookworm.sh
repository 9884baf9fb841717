#!/usr/bin/env bash
# Tries this tree as a new user has it: on a Debian bookworm with nothing installed, no compiler, no make, no git.
#
#     checks/bare_bookworm.sh [--keep] [COMMAND...]      ./dev test, unless a command is given
#
# Makes a minimal root with debootstrap, copies the tree's files into it and runs the command there by chroot. Mirror,
# proxy and name resolution are those of this machine's own apt. Needs root, debootstrap and 3 GB in BARE_ROOT
# (default: a new directory below TMPDIR). With --keep an existing BARE_ROOT is used again and left behind.
set -euo pipefail
tree=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
keep=0
if [[ ${1:-} == --keep ]]; then
  keep=1
  shift
fi
(($#)) || set -- ./dev test
if ((EUID != 0)) || ! command -v debootstrap >/dev/null; then
  echo "bare_bookworm: needs root and debootstrap" >&2
  exit 2
fi
root=${BARE_ROOT:-$(mktemp -d)/bookworm}

cleanup() {
  for place in dev/shm dev proc; do
    mountpoint -q "$root/$place" && umount "$root/$place"
  done
  ((keep)) || rm -rf --one-file-system "$root"
}
trap cleanup EXIT

if [[ ! -x $root/usr/bin/apt-get ]]; then
  # The mirror from which this machine takes bookworm itself; its authentication, if any, is apt's own.
  mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(CREATED_BY)' |
    awk '$2 == "bookworm" && $3 == "main" && $4 == "Packages" {print $1; exit}')
  [[ $mirror ]] || { echo "bare_bookworm: this machine's apt has no bookworm" >&2; exit 2; }
  proxy=$(apt-config dump --format '%v%n' Acquire::http::Proxy)
  [[ -z $proxy ]] || export http_proxy=$proxy
  mkdir -p "$root"
  debootstrap --variant=minbase bookworm "$root" "$mirror" >"$root.log" || { tail -20 "$root.log"; exit 1; }
fi

# apt, names and proxies as here.
rm -rf "$root/etc/apt/sources.list" "$root/etc/apt/sources.list.d"
for path in /etc/apt/sources.list /etc/apt/sources.list.d /etc/apt/apt.conf /etc/apt/apt.conf.d /etc/apt/auth.conf \
  /etc/apt/auth.conf.d /etc/apt/trusted.gpg.d /etc/apt/keyrings /usr/share/keyrings /etc/resolv.conf /etc/hosts \
  /etc/ssl/certs /usr/share/ca-certificates /usr/local/share/ca-certificates; do
  [[ -e $path ]] || continue
  mkdir -p "$root$(dirname "$path")"
  rm -rf "$root$path"
  cp -rL "$path" "$root$path" 2>/dev/null || true
done

# The tree without what builds and git keep beside it; a build directory of an earlier run in the root stays.
mkdir -p "$root/src"
tar -C "$tree" --exclude=./build --exclude=./.git --exclude=./.cache --exclude=__pycache__ -cf - . |
  tar -C "$root/src" -xf -

mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
mountpoint -q "$root/dev" || mount --bind /dev "$root/dev"
mkdir -p "$root/dev/shm"
mountpoint -q "$root/dev/shm" || mount -t tmpfs tmpfs "$root/dev/shm"

echo "bare_bookworm: $* in $root" >&2
begin=$SECONDS
status=0
# Only the proxy of this environment goes in: no compiler cache, no locale.
env -i HOME=/ PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM="${TERM:-dumb}" \
  ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
  chroot "$root" /bin/sh -c 'cd /src && exec "$@"' sh "$@" || status=$?
echo "bare_bookworm: status $status after $((SECONDS - begin)) s" >&2
exit $status
