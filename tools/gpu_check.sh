#!/usr/bin/env bash
# Runs what needs GPUs: the tests, with a rank a GPU where there are several, and the measurements of
# the all-to-all and of MoE layers. For a machine with GPUs; CI has none.
#
# usage: tools/gpu_check.sh [--gpus N] [--quick] [--bench_only] [--out FOLDER] [BUILD_FOLDER]
#   --gpus N       GPUs to use; default: all there are
#   --quick        fewer sizes and replays
#   --bench_only   no tests
#   --out FOLDER   where reports go; default: BUILD_FOLDER/gpu_check
#
# With several GPUs the tests run with one rank a GPU in a local world and, where mpirun is found, in
# a world of processes. With one they share it, and the memory checker runs over a short one.
# tools/gpu_results keeps the reports in bench/results/.
set -euo pipefail
cd "$(dirname "$0")/.."
command="tools/gpu_check.sh $*"
gpus=0 quick=0 tests=1 out= build=build
while [ $# -gt 0 ]; do
  case $1 in
    --gpus) gpus=$2; shift ;;
    --out) out=$2; shift ;;
    --quick) quick=1 ;;
    --bench_only) tests=0 ;;
    -*) echo "gpu_check: unknown option $1" >&2; exit 2 ;;
    *) build=$1 ;;
  esac
  shift
done
command -v nvidia-smi >/dev/null || { echo "gpu_check: no NVIDIA driver on this machine" >&2; exit 1; }
there=$(nvidia-smi -L | wc -l)
[ "$gpus" != 0 ] || gpus=$there
[ "$gpus" -le "$there" ] || { echo "gpu_check: --gpus $gpus: this machine has $there" >&2; exit 1; }
out=${out:-$build/gpu_check}
mkdir -p "$out"

# Kernels of different ranks wait for each other: each stream needs a queue of its own, and no kernel may
# be loaded while another runs. Multicast is not used.
export CUDA_DEVICE_MAX_CONNECTIONS=32 CUDA_MODULE_LOADING=EAGER NCCL_NVLS_ENABLE=0
CUDA_VISIBLE_DEVICES=$(seq -s, 0 $((gpus - 1)))
export CUDA_VISIBLE_DEVICES

echo "$command" > "$out/command.txt"
{ nvidia-smi --query-gpu=name,driver_version --format=csv,noheader; nvidia-smi topo -m; } > "$out/machine.txt"

run_tests() {
  local program
  for program in "$build"/bin/*_gpu_test; do
    echo "== $program, $gpus GPUs"
    "$program" --gtest_brief=1
  done
  if [ "$gpus" -gt 1 ] && command -v mpirun >/dev/null; then
    echo "== alltoall_ranks, $gpus processes"
    mpirun --allow-run-as-root --bind-to none -n "$gpus" "$build"/bin/alltoall_ranks
  fi
  if command -v compute-sanitizer >/dev/null; then
    echo "== memcheck, two ranks on one GPU"
    CUDA_VISIBLE_DEVICES=0 compute-sanitizer --tool memcheck --error-exitcode 1 \
      "$build"/bin/alltoall_gpu_test --gtest_brief=1 --gtest_filter='Nvlink.RegimesTakeTurns'
  fi
}

# bench NAME OPTION...: one report.
bench() {
  local name=$1
  shift
  echo "== bench $name"
  "$build"/wideep bench all-to-all --report_json "$out/$name.json" "$@" | tee "$out/$name.txt"
}

# bench_moe NAME VARIANTS OPTION...: MoE layers.
bench_moe() {
  local name=$1 variants=$2
  shift 2
  echo "== bench $name"
  "$build"/wideep bench moe --device cuda --ep "$gpus" --report_json "$out/$name.json" \
    --variants "$variants" "$@" | tee "$out/$name.txt"
}

measure() {
  local replays=20 sizes=1,2,4,8,16,32,64,128,256,512,1024,2048,4096,8192 few=8,128,4096
  [ "$quick" = 0 ] || replays=8 sizes=1,8,128,1024,4096,8192
  bench sizes --replays $replays --tokens $sizes --formats bf16,fp8 --layouts slot,masked,source --nccl
  bench load --replays $replays --tokens $few --layouts slot,masked,source \
    --routing load --load data/sample_load.json --nccl
  bench one_rank --replays $replays --tokens 128,4096 --layouts slot,source --routing one_rank
  bench multiprocessors --replays $replays --tokens 128,4096 --layouts slot,source --num_sms 8,16,32,132
  bench exact --replays $replays --tokens $few --formats bf16 --layouts slot --combine exact
  # Replicas need a second rank.
  local variants=cutlass,wideep
  [ "$gpus" = 1 ] || variants=cutlass,wideep,plan,online
  bench_moe moe $variants --model bench/models/deepseek-v3-4-layers --layers 2 --tokens 1,32,128,1024,4096 \
    --skew data/sample_load.json
}

[ "$tests" = 0 ] || run_tests
measure
