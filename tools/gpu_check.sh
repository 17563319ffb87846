#!/usr/bin/env bash
# Runs the tests that need a GPU, several ranks on one GPU where there are fewer GPUs than ranks, and the
# memory checker over the ones that are short. For a machine with a GPU; CI has none.
#
# usage: tools/gpu_check.sh [BUILD_FOLDER]     default: build
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build}
command -v nvidia-smi >/dev/null || { echo "gpu_check: no NVIDIA driver on this machine" >&2; exit 1; }

# Kernels of different ranks wait for each other: each stream needs a queue of its own, and no kernel may
# be loaded while another runs. Multicast is not used.
export CUDA_DEVICE_MAX_CONNECTIONS=32 CUDA_MODULE_LOADING=EAGER NCCL_NVLS_ENABLE=0

for program in "$build"/bin/*_gpu_test; do
  echo "== $program"
  "$program" --gtest_brief=1
done

if command -v compute-sanitizer >/dev/null; then
  echo "== memcheck, two ranks on one GPU"
  CUDA_VISIBLE_DEVICES=0 compute-sanitizer --tool memcheck --error-exitcode 1 \
    "$build"/bin/alltoall_gpu_test --gtest_brief=1 --gtest_filter='Nvlink.RegimesTakeTurns'
fi
