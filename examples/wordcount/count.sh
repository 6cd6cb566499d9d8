#!/usr/bin/env bash
# Hashes and counts every file below files/; the results are the outputs of the Run.
#
# `cargo xtask quickstart` puts a part of the repository's own sources in front of this script and submits eight such
# Runs at once.
set -euo pipefail
export LC_ALL=C

count=$(find files -type f | wc -l)
read -r lines words bytes < <(find files -type f -print0 | xargs -0 cat | wc)
digest=$(find files -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -d ' ' -f 1)

cat >> "$KRUNTIME_OUTPUTS" <<OUTPUTS
files=$count
lines=$lines
words=$words
bytes=$bytes
sha256=$digest
OUTPUTS
