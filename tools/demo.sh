#!/usr/bin/env bash
# Expert load balancing, the whole workflow on the embedded model and real text, on any machine: run and
# count, report, plan, run with the plan, report again; then traffic that changes its languages, and the
# online balancer that follows it. Every number is measured now. Outputs: build/demo/.
#
# The ranks are threads of one process; the same commands run under mpirun. examples/wide_ep/ep_load_balancer/
# has the workflow as a script to copy.
set -euo pipefail
cd "$(dirname "$0")/.."
wideep=build/wideep
out=build/demo
rm -rf "$out"
mkdir -p "$out"

step() { printf '\n== %s\n' "$*"; }
run() {
  printf '\n$ %s\n' "${*/#$wideep/wideep}"
  "$@"
}

run "$wideep" generate --prompt "The first computers were" --max_tokens 32

step "Traffic: requests in German and Russian, then in Chinese and Python code"
requests=800
run "$wideep" bench prepare-dataset --texts data/domains/german.json --texts data/domains/russian.json \
  --mix --num_requests $requests --input_mean 32 --output_mean 16 --random_start --output "$out/before_shift.jsonl"
run "$wideep" bench prepare-dataset --texts data/domains/chinese.json --texts data/domains/python.json \
  --mix --num_requests $requests --input_mean 32 --output_mean 16 --random_start --output "$out/after_shift.jsonl"
cat "$out/before_shift.jsonl" "$out/after_shift.jsonl" > "$out/dataset.jsonl"

# 128 tokens a rank and iteration.
cat > "$out/options.yaml" <<EOF
enable_attention_dp: true
enable_chunked_prefill: true
max_num_tokens: 128
max_batch_size: 128
kv_cache_config: {max_tokens: 16384, enable_block_reuse: false}
moe_config: {backend: WideEP}
EOF
sed "s|^moe_config.*|moe_config: {backend: WideEP, load_balancer: $out/moe_load_balancer.yaml}|" \
  "$out/options.yaml" > "$out/options_eplb.yaml"
sed "s|^moe_config.*|moe_config: {backend: WideEP, load_balancer: {num_slots: 72, layer_updates_per_iter: 2}}|" \
  "$out/options.yaml" > "$out/options_online.yaml"

# bench NAME RANKS OPTIONS...: the traffic on so many ranks; build/demo/NAME.json.
bench() {
  local name=$1 ranks=$2
  shift 2
  run "$wideep" bench throughput --tp "$ranks" --ep "$ranks" --dataset "$out/dataset.jsonl" \
    --warmup 0 --eos_id -1 --report_json "$out/$name.json" "$@" 2> "$out/$name.log" ||
    { cat "$out/$name.log" >&2; exit 1; }
}

step "1. Run on 8 ranks without a balancer, and count the tokens of every expert while it is German and Russian"
export EXPERT_STATISTIC_ITER_RANGE=8-28
EXPERT_STATISTIC_PATH=$out/expert_statistic \
  bench none 8 --extra_llm_api_options "$out/options.yaml"
run "$wideep" eplb report --expert_statistic_path "$out/expert_statistic" --json "$out/report_none.json"

step "2. Plan a placement for 9 ranks: 64 experts and 8 replicas in 72 slots"
run "$wideep" eplb generate --expert_statistic_path "$out/expert_statistic" --ep_size 9 --num_slots 72 \
  --output_path "$out/moe_load_balancer.yaml"

step "3. Run with it on 9 ranks, and count again"
EXPERT_STATISTIC_PATH=$out/expert_statistic_eplb \
  bench offline 9 --extra_llm_api_options "$out/options_eplb.yaml"
run "$wideep" eplb report --expert_statistic_path "$out/expert_statistic_eplb" --json "$out/report_offline.json"

step "4. The same traffic with the online balancer: no plan, two layers an iteration"
unset EXPERT_STATISTIC_ITER_RANGE
bench online 9 --extra_llm_api_options "$out/options_online.yaml" --metrics_file "$out/job.prom"
run "$wideep" eplb watch --metrics "$out/job.prom" --once

step "5. What it came to"
python3 tools/demo_page.py "$out"
