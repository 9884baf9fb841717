#!/bin/sh
# What `access_log --once --json` must print for a log, computed with awk and sort only: a second opinion that shares no
# code and no method with the program (one regular expression for the whole line there, a cursor here).
#
#     checks/access_log_oracle.sh access.log        # unpacked
#
# A line is well-formed if, after one final "\r" is cut, it matches this expression (the grammar of
# examples/access_log/log_line.h); `quoted` may hold spaces, and quotes if a backslash stands before them:
#     ^client identity user \[time\] quoted status bytes( quoted quoted( anything)?)?$
# and its bytes are at most 2^64 - 1. All else is malformed and counts only as a line. The path is the request without
# its first word and that word's space, and then without a last word that begins with HTTP/ if a space is left before
# it; a request without any space is all path.
#
# Limits, each told on stderr with exit 3 rather than answered wrongly: sums from 2^53 (numbers of awk are doubles), and
# names in a top list that are not printable ASCII (awk cannot mend broken UTF-8). mawk takes lines with NUL bytes as
# they are; an awk that cuts them there calls them malformed. A last line without "\n" is a line.
set -eu
LC_ALL=C
export LC_ALL

if [ $# -ne 1 ] || [ ! -r "$1" ]; then
  echo "usage: $0 FILE" >&2
  exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# One record a line: L (all lines), B (bytes), S (status), P (path), C (client).
awk -v work="$work" '
  {
    lines++
    sub(/\r$/, "")
    # tidy: allow length: because a regular expression cannot be broken into lines
    if ($0 !~ /^[^ ]+ [^ ]+ [^ ]+ \[[^]]+\] "([^"\\]|\\.)*" [1-9][0-9][0-9] ([0-9]+|-)( "([^"\\]|\\.)*" "([^"\\]|\\.)*"( .*)?)?$/) {
      malformed++
      next
    }
    client = substr($0, 1, index($0, " ") - 1)
    rest = $0
    sub(/^[^ ]+ [^ ]+ [^ ]+ \[[^]]+\] "/, "", rest)
    match(rest, /^([^"\\]|\\.)*"/)
    request = substr(rest, 1, RLENGTH - 1)
    rest = substr(rest, RLENGTH + 2)            # status and bytes, and what follows
    status = substr(rest, 1, 3)
    sent = substr(rest, 5)
    sub(/ .*/, "", sent)
    if (sent == "-") sent = "0"
    sub(/^0+/, "", sent)
    if (length(sent) > 20 || (length(sent) == 20 && (sent "") > "18446744073709551615")) {
      malformed++
      next
    }
    first = index(request, " ")
    if (first > 0) {
      path = substr(request, first + 1)
      if (match(path, / HTTP\/[^ ]*$/)) path = substr(path, 1, RSTART - 1)
    } else {
      path = request
    }
    bytes += sent
    count_of_status[status]++
    count_of_path[path]++
    count_of_client[client]++
  }
  END {
    if (bytes >= 9007199254740992) exit 3
    printf "%.0f %.0f %.0f\n", lines, malformed, bytes > (work "/sums")
    for (s in count_of_status) printf "%s\t%.0f\n", s, count_of_status[s] > (work "/status")
    for (p in count_of_path) printf "%.0f\t%s\n", count_of_path[p], p > (work "/paths")
    for (c in count_of_client) printf "%.0f\t%s\n", count_of_client[c], c > (work "/clients")
  }' < "$1" || {
  echo "$0: awk failed, or the bytes add up to 2^53 or more" >&2
  exit 3
}
touch "$work/status" "$work/paths" "$work/clients"

# Prints [["name",count],...] of the ten first of a file of "count<TAB>name".
top() {
  tab=$(printf '\t')
  sort -t "$tab" -k1,1nr -k2 "$1" | awk '
    NR > 10 { next }   # not exit: sort must not die of a closed pipe
    {
      at = index($0, "\t")
      name = substr($0, at + 1)
      if (name ~ /[^ -~]/) exit 3
      out = ""
      for (i = 1; i <= length(name); i++) {
        c = substr(name, i, 1)
        if (c == "\"" || c == "\\") out = out "\\"
        out = out c
      }
      printf "%s[\"%s\",%s]", (NR > 1 ? "," : ""), out, substr($0, 1, at - 1)
    }' || {
    echo "$0: a name in a top list is not printable ASCII" >&2
    exit 3
  }
}

paths=$(top "$work/paths")
clients=$(top "$work/clients")
status=$(sort "$work/status" | awk -F '\t' '{ printf "%s\"%s\":%s", (NR > 1 ? "," : ""), $1, $2 }')
read -r lines malformed bytes < "$work/sums"
printf '{"lines":%s,"malformed":%s,"bytes":%s,"status":{%s},"top_paths":[%s],"top_clients":[%s]}\n' \
  "$lines" "$malformed" "$bytes" "$status" "$paths" "$clients"
