#!/usr/bin/env bash
# Builds, and runs what needs GPUs: the tests, with a rank a GPU where there are several, and the
# measurements of the all-to-all, of MoE layers, of single ops and of a model's steps. Reports are kept as
# bench/results/DATE-gpu-check-GPUS-MODEL.json (tools/gpu_results). For a machine with GPUs; CI has none.
#
# usage: tools/gpu_check.sh [OPTION...] [BUILD_FOLDER]
#   --gpus N       GPUs to use; default: all there are
#   --quick        fewer sizes and replays
#   --build_only, --tests_only, --bench_only
#                  one part, where a call must not take as long as all: they share reports through --out
#   --out FOLDER   where reports and logs go; default: BUILD_FOLDER/gpu_check
#   BUILD_FOLDER   has been built: nothing is built; default: build/, brought up to date first
#
# Without network, bring build/gpu_pack.tar.xz along: tools/gpu_pack.sh makes it on a machine that has
# what the build needs. A test or measurement that fails does not keep the others from running: the last
# line and the exit code tell. With several GPUs the tests run with one rank a GPU in a local world and,
# where mpirun is found, in a world of processes. With one they share it. The memory checker runs over a
# short one.
set -euo pipefail
cd "$(dirname "$0")/.."
command="tools/gpu_check.sh $*"
gpus=0 quick=0 tests=1 measurements=1 out='' build=''
while [ $# -gt 0 ]; do
  case $1 in
    --gpus) gpus=$2; shift ;;
    --out) out=$2; shift ;;
    --quick) quick=1 ;;
    --build_only) tests=0 measurements=0 ;;
    --tests_only) measurements=0 ;;
    --bench_only) tests=0 ;;
    -*) echo "gpu_check: unknown option $1" >&2; exit 2 ;;
    *) build=$1 ;;
  esac
  shift
done
out=${out:-${build:-build}/gpu_check}
mkdir -p "$out"
limit=1800  # seconds of one step: a kernel that waits for ever must not keep the others from running
failed=()

# step NAME COMMAND...: one part of the check. Its output stays in NAME.txt, how it ended in steps.txt.
step() {
  local name=$1 start=$SECONDS code=0
  shift
  echo "== $name: $*"
  timeout --foreground --kill-after 10 $limit "$@" 2>&1 | tee "$out/$name.txt" || code=$?
  printf '%s\t%s\t%s\t%s\n' "$name" $code $((SECONDS - start)) "$*" >> "$out/steps.txt"
  [ $code = 0 ] || { failed+=("$name"); echo "== $name FAILED with exit code $code"; }
}

finish() {
  [ ${#failed[@]} = 0 ] || { echo "gpu_check: FAILED: ${failed[*]}; logs are in $out" >&2; exit 1; }
  echo "gpu_check: everything passed; logs are in $out"
  exit 0
}

build_programs() {
  local setup=tools/setup.sh
  command -v nvcc >/dev/null || { echo "gpu_check: nvcc is not on the PATH" >&2; exit 1; }
  if [ -f build/gpu_pack.tar.xz ]; then
    tools/gpu_pack.sh --unpack
    export CMAKE_PREFIX_PATH=$PWD/build/deps/root/usr
    setup=true
  fi
  step build make --no-print-directory SETUP="$setup" PRESET=cuda build
  build=build
}

# Chooses the GPUs and writes down what they are.
prepare_gpus() {
  command -v nvidia-smi >/dev/null || { echo "gpu_check: no NVIDIA driver on this machine" >&2; exit 1; }
  local there
  there=$(nvidia-smi -L | wc -l)
  [ "$gpus" != 0 ] || gpus=$there
  [ "$gpus" -le "$there" ] || { echo "gpu_check: --gpus $gpus: this machine has $there" >&2; exit 1; }
  # Kernels of different ranks wait for each other: each stream needs a queue of its own, and no kernel may
  # be loaded while another runs. Multicast is not used.
  export CUDA_DEVICE_MAX_CONNECTIONS=32 CUDA_MODULE_LOADING=EAGER NCCL_NVLS_ENABLE=0
  CUDA_VISIBLE_DEVICES=$(seq -s, 0 $((gpus - 1)))
  export CUDA_VISIBLE_DEVICES
  # Tests and measurements may be two calls that share a folder.
  grep -qsxF -- "$command" "$out/command.txt" || echo "$command" >> "$out/command.txt"
  { nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
    nvidia-smi topo -m | sed 's/\x1b\[[0-9;]*m//g'; } > "$out/machine.txt"
}

run_tests() {
  local program
  for program in "$build"/bin/*_gpu_test; do
    step "$(basename "$program")" "$program" --gtest_brief=1
  done
  if [ "$gpus" -gt 1 ] && command -v mpirun >/dev/null; then
    step alltoall_ranks mpirun --allow-run-as-root --bind-to none -n "$gpus" "$build"/bin/alltoall_ranks
  fi
  if command -v compute-sanitizer >/dev/null; then
    # Two ranks on one GPU.
    step memcheck env CUDA_VISIBLE_DEVICES=0 compute-sanitizer --tool memcheck --error-exitcode 1 \
      "$build"/bin/alltoall_gpu_test --gtest_brief=1 --gtest_filter='Nvlink.RegimesTakeTurns'
  fi
}

# bench NAME WHAT OPTION...: one report of `wideep bench WHAT`.
bench() {
  local name=$1 what=$2
  shift 2
  rm -f "$out/$name.json"
  step "$name" "$build"/wideep bench "$what" --report_json "$out/$name.json" "$@"
}

measure_all_to_all() {
  local replays=20 sizes=1,2,4,8,16,32,64,128,256,512,1024,2048,4096,8192 few=8,128,4096
  [ "$quick" = 0 ] || replays=8 sizes=1,8,128,1024,4096,8192
  bench sizes all-to-all --replays $replays --tokens $sizes --formats bf16,fp8 \
    --layouts slot,masked,source --nccl
  bench load all-to-all --replays $replays --tokens $few --layouts slot,masked,source \
    --routing load --load data/sample_load.json --nccl
  bench one_rank all-to-all --replays $replays --tokens 128,4096 --layouts slot,source --routing one_rank
  bench multiprocessors all-to-all --replays $replays --tokens 128,4096 --layouts slot,source \
    --num_sms 8,16,32,132
  bench exact all-to-all --replays $replays --tokens $few --formats bf16 --layouts slot --combine exact
}

# Layers, single ops and steps; the last two are of one GPU.
measure_model() {
  local model=bench/models/deepseek-v3-4-layers replays=10 batches=1,2,4,16,64,128 prefills=64,4096,8192
  [ "$quick" = 0 ] || replays=3 batches=1,64 prefills=8192
  # Replicas need a second rank.
  local variants=cutlass,wideep
  [ "$gpus" = 1 ] || variants=cutlass,wideep,plan,online
  bench moe moe --device cuda --ep "$gpus" --variants $variants --model $model --layers 2 \
    --tokens 1,32,128,1024,4096 --skew data/sample_load.json
  bench ops ops --replays $replays
  rm -f "$out/plain_ops.json"
  step plain_ops "$build"/bin/ops_gpu_bench --benchmark_min_time=0.015 \
    --benchmark_out="$out/plain_ops.json" --benchmark_out_format=json
  bench step step --device cuda --model $model --load_format dummy --batch $batches --prefill $prefills
  bench profile step --device cuda --model $model --load_format dummy --batch 1,64 --prefill 8192 \
    --profile --steps 2
}

if [ -z "$build" ]; then build_programs; fi
# Where the build failed there is nothing to run.
if [ ${#failed[@]} != 0 ] || [ $((tests + measurements)) = 0 ]; then finish; fi
prepare_gpus
if [ "$tests" = 1 ]; then run_tests; fi
if [ "$measurements" = 1 ]; then
  measure_all_to_all
  measure_model
  model=$(nvidia-smi --query-gpu=name --format=csv,noheader | sed -n '1s/^NVIDIA //p' | tr 'A-Z ' 'a-z-')
  name=$(date +%F)-gpu-check-$gpus-${model:-gpu}
  [ "$quick" = 0 ] || name+=-quick
  tools/gpu_results "$name" "$out" || failed+=(gpu_results)
fi
finish
