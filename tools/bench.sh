#!/usr/bin/env bash
# Runs the Google Benchmark programs of bench/ one after the other and writes build/bench/NAME.json.
#
# usage: tools/bench.sh [--benchmark_filter=... and other Google Benchmark flags]
set -euo pipefail
cd "$(dirname "$0")/.."
shopt -s nullglob
programs=(build/bin/*_bench)
[ "${#programs[@]}" -gt 0 ] || { echo "bench: no programs in build/bin" >&2; exit 1; }
mkdir -p build/bench
for program in "${programs[@]}"; do
  json=build/bench/$(basename "$program" _bench).json
  "$program" --benchmark_out="$json" --benchmark_out_format=json "$@"
  echo "bench: wrote $json"
done
