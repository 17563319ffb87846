#!/usr/bin/env bash
# Expert load balancing from the first run to the online balancer: the commands of TensorRT-LLM's example
# (examples/wide_ep/ep_load_balancer there), spelled for wideep. As it stands it runs the embedded model on 8, then 9
# ranks of this machine; the variables below make it DeepSeek-R1 on 32, then 36 GPUs.
#
# usage: run.sh [FOLDER]        outputs; default: ./ep_load_balancer
set -euo pipefail

WIDEEP=${WIDEEP:-wideep}
# DeepSeek-R1: MODEL_NAME=deepseek-ai/DeepSeek-R1 MODEL_PATH=<folder> RANKS=32 EPLB_RANKS=36 NUM_SLOTS=288
#              ITERATIONS=100-200 MOE_MAX_NUM_TOKENS=8192 DATASET=<your requests>
MODEL_NAME=${MODEL_NAME:-dsv3-tiny}
MODEL_PATH=${MODEL_PATH:-$(dirname "$0")/../../../models/dsv3-tiny}
RANKS=${RANKS:-8}            # without a balancer: a divisor of the experts
EPLB_RANKS=${EPLB_RANKS:-9}  # with one
NUM_SLOTS=${NUM_SLOTS:-72}   # over all ranks: 8 a rank, 64 experts and 8 replicas
ITERATIONS=${ITERATIONS:-8-32}  # counted: from the first, up to before the second
MOE_MAX_NUM_TOKENS=${MOE_MAX_NUM_TOKENS:-8192}
DATASET=${DATASET:-}         # default: made of data/domains/
NUM_REQUESTS=${NUM_REQUESTS:-512}
# Over processes instead of threads: LAUNCHER="mpirun --oversubscribe -n", or "srun -n" under Slurm.
LAUNCHER=${LAUNCHER:-}

domains=$(cd "$(dirname "$0")/../../../data/domains" && pwd)
WIDEEP=$(command -v "$WIDEEP")
WIDEEP=$(realpath "$WIDEEP")
MODEL_PATH=$(realpath "$MODEL_PATH")
[ -z "$DATASET" ] || DATASET=$(realpath "$DATASET")
mkdir -p "${1:-ep_load_balancer}"
cd "${1:-ep_load_balancer}"

if [ -z "$DATASET" ]; then
  DATASET=dataset.jsonl
  "$WIDEEP" bench --model "$MODEL_NAME" --model_path "$MODEL_PATH" prepare-dataset \
      --texts "$domains/german.json" --texts "$domains/russian.json" --mix --random_start \
      --num_requests "$NUM_REQUESTS" --input_mean 64 --output_mean 16 --output "$DATASET"
fi

# throughput RANKS OPTIONS [FLAGS...]
throughput() {
  local ranks=$1 options=$2
  shift 2
  ${LAUNCHER:+$LAUNCHER "$ranks"} "$WIDEEP" bench --model "$MODEL_NAME" --model_path "$MODEL_PATH" throughput \
      --tp "$ranks" --ep "$ranks" --extra_llm_api_options "$options" \
      --kv_cache_free_gpu_mem_fraction 0.75 --backend pytorch --dataset "$DATASET" --warmup 0 --eos_id -1 "$@"
}

echo "== Step 1: run without a balancer and count the tokens of experts"
cat > extra_llm_api_options.yaml <<EOF
enable_attention_dp: true
use_cuda_graph: true
moe_max_num_tokens: $MOE_MAX_NUM_TOKENS
EOF
export EXPERT_STATISTIC_PATH=./expert_statistic EXPERT_STATISTIC_ITER_RANGE=$ITERATIONS
throughput "$RANKS" extra_llm_api_options.yaml
"$WIDEEP" eplb report --expert_statistic_path ./expert_statistic

echo "== Step 2: plan a placement"
"$WIDEEP" eplb generate --ep_size "$EPLB_RANKS" --num_slots "$NUM_SLOTS" \
    --expert_statistic_path ./expert_statistic --output_path ./moe_load_balancer.yaml

echo "== Step 3: run with it, and count again"
cat > extra_llm_api_options_eplb.yaml <<EOF
enable_attention_dp: true
use_cuda_graph: true
moe_max_num_tokens: $MOE_MAX_NUM_TOKENS
moe_load_balancer: ./moe_load_balancer.yaml
EOF
export EXPERT_STATISTIC_PATH=./expert_statistic_eplb
throughput "$EPLB_RANKS" extra_llm_api_options_eplb.yaml --report_json offline.json
"$WIDEEP" eplb report --expert_statistic_path ./expert_statistic_eplb

echo "== Step 4: online, without a plan: two layers may change an iteration"
unset EXPERT_STATISTIC_PATH EXPERT_STATISTIC_ITER_RANGE  # counting is off again
cat > moe_load_balancer_online.yaml <<EOF
num_slots: $NUM_SLOTS
layer_updates_per_iter: 2
EOF
sed 's/moe_load_balancer.yaml/moe_load_balancer_online.yaml/' extra_llm_api_options_eplb.yaml > extra_llm_api_options_online.yaml
# In another terminal meanwhile: wideep eplb watch --metrics job.prom
throughput "$EPLB_RANKS" extra_llm_api_options_online.yaml --report_json online.json --metrics_file job.prom
"$WIDEEP" eplb watch --metrics job.prom --once
