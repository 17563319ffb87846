#!/usr/bin/env bash
# The balancer's whole workflow on a load of DeepSeek-R1's shape (made by tools/make_sample_load.py), without a GPU:
# sample statistics as 32 ranks would have recorded them, report, plan 36 ranks with 288 slots,
# evaluate, and write the page of before and after. Outputs: build/demo/.
set -euo pipefail
cd "$(dirname "$0")/.."
wideep=build/wideep
out=build/demo
rm -rf "$out"
mkdir -p "$out"

run() {
  printf '\n$ %s\n' "${*/#$wideep/wideep}"
  "$@"
}

# The long tables are cut in the middle, as a reader would.
shorten() { awk '{ line[NR] = $0 } END { for (i = 1; i <= NR; ++i)
  if (NR <= 16 || i <= 7 || i > NR - 5) print line[i]; else if (i == 8) print "..." }'; }

run "$wideep" generate --prompt "The first computers were" --max_tokens 32

run "$wideep" eplb import --from sglang --input data/sample_load.json --output "$out/statistics" \
  --ranks 32 --iterations 10 --tokens_per_rank 128 --seed 1
run "$wideep" eplb report --expert_statistic_path "$out/statistics" --json "$out/before.json" | shorten
run "$wideep" eplb generate --expert_statistic_path "$out/statistics" --ep_size 36 --num_slots 288 \
  --output_path "$out/moe_load_balancer.yaml" | shorten
run "$wideep" eplb evaluate --load "$out/statistics" --plan "$out/moe_load_balancer.yaml" \
  --ep_size 36 --json "$out/evaluate.json" | shorten
run "$wideep" eplb report --expert_statistic_path "$out/statistics" \
  --projection_eplb_config_path "$out/moe_load_balancer.yaml" --ep_size 36 \
  --json "$out/after.json" --html "$out/report.html" | shorten

python3 tools/demo_summary.py "$out"
