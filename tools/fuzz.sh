#!/usr/bin/env bash
# Runs every libFuzzer program of build-fuzz for a while, from the corpus that the tests replay.
#
# usage: tools/fuzz.sh [SECONDS_EACH]
# A program bin/NAME_fuzz takes its first inputs from tests/corpus/NAME/; what it finds anew is kept in
# build-fuzz/corpus/NAME/, and an input that breaks it in build-fuzz/.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-20}
shopt -s nullglob
programs=(build-fuzz/bin/*_fuzz)
[ "${#programs[@]}" -gt 0 ] || { echo "fuzz: no programs in build-fuzz/bin" >&2; exit 1; }
for program in "${programs[@]}"; do
  name=$(basename "$program" _fuzz)
  found=build-fuzz/corpus/$name
  inputs=("$found")
  [ ! -d "tests/corpus/$name" ] || inputs+=("tests/corpus/$name")
  mkdir -p "$found"
  echo "fuzz: $name for $seconds s"
  "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 -print_final_stats=1 \
    -verbosity=0 -artifact_prefix=build-fuzz/ "${inputs[@]}" 2>&1 |
    grep -vE '^(INFO|stat::(slowest|new_units|peak))' || [ "${PIPESTATUS[0]}" = 0 ]
done
