// All ranks learn a few integers of each: what replicas are chosen by. They travel as packets, so
// that no fence and no barrier is needed; a block takes a peer, and all of a block's packets have
// left before it waits for any. Buffers alternate as those of a small dispatch do.
#include "alltoall/nvlink_device.cuh"
#include "alltoall/nvlink_kernels.h"
#include "alltoall/nvlink_launch.h"

namespace wideep::alltoall {
namespace {

using namespace device;  // NOLINT: the kernels' own vocabulary

constexpr int kThreads = 128;
constexpr int kWords = 3;  // of a packet's payload

__device__ Packet* packets_of(const GroupView& g, std::byte* owner, int source, uint32_t epoch) {
  const int64_t index = static_cast<int64_t>(epoch & 1) * g.shape.num_ranks + source;
  return at<Packet>(owner, g.at.gathered) + index * g.shape.count_packets();
}

// Packet i of this rank's counts; zeros beyond the last.
__device__ Packet pack(const GatherArgs& a, int i, uint32_t epoch) {
  Packet packet = {{0, 0, 0}, epoch};
#pragma unroll
  for (int w = 0; w < kWords; ++w) {
    const int at = i * kWords + w;
    if (at < a.group.shape.num_counts) packet.word[w] = static_cast<uint32_t>(a.in[at]);
  }
  return packet;
}

__device__ void unpack(const GatherArgs& a, int source, int i, const Packet& packet) {
  int32_t* to = a.out + static_cast<int64_t>(source) * a.group.shape.num_counts;
#pragma unroll
  for (int w = 0; w < kWords; ++w) {
    const int at = i * kWords + w;
    if (at < a.group.shape.num_counts) to[at] = static_cast<int32_t>(packet.word[w]);
  }
}

__device__ void send(const GatherArgs& a, int peer, uint32_t epoch) {
  const GroupView& g = a.group;
  for (int i = static_cast<int>(threadIdx.x); i < g.shape.count_packets(); i += kThreads) {
    const Packet packet = pack(a, i, epoch);
    if (peer == g.rank) {
      unpack(a, peer, i, packet);
    } else {
      ptx::store_relaxed(packets_of(g, g.peers[peer], g.rank, epoch) + i, packet);
    }
  }
}

__device__ void receive(const GatherArgs& a, int source, uint32_t epoch) {
  const GroupView& g = a.group;
  for (int i = static_cast<int>(threadIdx.x); i < g.shape.count_packets(); i += kThreads) {
    const Wait wait = {Phase::kGather, Awaited::kCounts, source, epoch, i, epoch};
    Packet packet;
    if (!wait_packet<false>(g, wait, packets_of(g, g.self, source, epoch) + i, packet)) return;
    unpack(a, source, i, packet);
  }
}

__global__ void __launch_bounds__(kThreads) gather_kernel(const __grid_constant__ GatherArgs a) {
  const GroupView& g = a.group;
  ptx::wait_for_previous_kernel();
  const uint32_t epoch = next_epoch(g.state->gather_epoch);
  if (must_skip(g, Phase::kGather, epoch)) return;
  const auto first = static_cast<int>(blockIdx.x);
  const auto step = static_cast<int>(gridDim.x);
  for (int peer = first; peer < g.shape.num_ranks; peer += step) {
    if (is_active(peer)) send(a, peer, epoch);
  }
  for (int source = first; source < g.shape.num_ranks; source += step) {
    if (!is_active(source)) {
      for (int i = static_cast<int>(threadIdx.x); i < g.shape.count_packets(); i += kThreads) {
        unpack(a, source, i, {{0, 0, 0}, epoch});
      }
    } else if (source != g.rank) {
      receive(a, source, epoch);
    }
  }
  finish_phase(&g.state->gather_epoch);
}

}  // namespace

cudaError_t load_gather() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, gather_kernel);
}

cudaError_t launch_gather(const Launch& launch, const GatherArgs& args) {
  return launch_kernel(gather_kernel, launch, kThreads, 0, args);
}

}  // namespace wideep::alltoall
