// Going on without a rank: the active ranks tell each other their epochs, take the largest and
// clear what stopped them. One block; not on any hot path.
#include "alltoall/nvlink_device.cuh"
#include "alltoall/nvlink_kernels.h"

namespace wideep::alltoall {
namespace {

using namespace device;  // NOLINT: the kernels' own vocabulary

constexpr int kThreads = 96;  // at least kMaxNvlinkRanks
static_assert(kThreads >= kMaxNvlinkRanks);

__global__ void resume_kernel(const __grid_constant__ GroupView g, uint32_t generation) {
  __shared__ uint32_t dispatch_epoch;
  __shared__ uint32_t combine_epoch;
  __shared__ uint32_t gather_epoch;
  __shared__ int failed;
  const int peer = static_cast<int>(threadIdx.x);
  const bool talks = peer < g.shape.num_ranks && g.active[peer] != 0;
  if (threadIdx.x == 0) {
    dispatch_epoch = next_epoch(g.state->dispatch_epoch);
    combine_epoch = next_epoch(g.state->combine_epoch);
    gather_epoch = next_epoch(g.state->gather_epoch);
    failed = 0;
    *at<uint64_t>(g.self, g.at.abort) = 0;
    g.state->error_taken = 0;
  }
  __syncthreads();
  const Packet own = {{dispatch_epoch, combine_epoch, gather_epoch}, generation};
  __syncthreads();
  if (talks) {
    ptx::fence_sys();
    ptx::store_relaxed(at<Packet>(g.peers[peer], g.at.resume) + g.rank, own);
    Packet theirs;
    const Wait wait = {Phase::kResume, Awaited::kResume, peer, generation, 0, generation};
    if (wait_packet<true>(g, wait, at<Packet>(g.self, g.at.resume) + peer, theirs)) {
      // Epochs of ranks that failed together differ by one call at most.
      if (reached(theirs.word[0], own.word[0])) atomicMax(&dispatch_epoch, theirs.word[0]);
      if (reached(theirs.word[1], own.word[1])) atomicMax(&combine_epoch, theirs.word[1]);
      if (reached(theirs.word[2], own.word[2])) atomicMax(&gather_epoch, theirs.word[2]);
    } else {
      failed = 1;
    }
  }
  __syncthreads();
  if (threadIdx.x == 0 && failed == 0) {
    // A peer that gave up later than this rank has said so before it came here. Epochs are skipped,
    // so that nothing a stopped call left behind can be taken for new.
    *at<uint64_t>(g.self, g.at.abort) = 0;
    g.state->dispatch_epoch = static_cast<uint64_t>(dispatch_epoch + 1) << 32;
    g.state->combine_epoch = static_cast<uint64_t>(combine_epoch + 1) << 32;
    g.state->gather_epoch = static_cast<uint64_t>(gather_epoch + 1) << 32;
    g.state->grid_barrier = 0;
    g.state->scanning = 0;
    g.state->error_taken = 0;
  }
}

}  // namespace

cudaError_t load_resume() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, resume_kernel);
}

cudaError_t load_kernels() {
  for (const auto load : {load_dispatch_by_slot, load_dispatch_by_source, load_dispatch_small,
                          load_combine, load_combine_small, load_gather, load_resume}) {
    if (const cudaError_t error = load(); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t launch_resume(cudaStream_t stream, const GroupView& group, uint32_t generation) {
  resume_kernel<<<1, kThreads, 0, stream>>>(group, generation);
  return cudaGetLastError();
}

}  // namespace wideep::alltoall
