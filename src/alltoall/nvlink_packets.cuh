// Rows as packets: a thread's three vectors of a row and the four packets that carry them.
#pragma once

#include <cstdint>

#include "alltoall/nvlink_device.cuh"

namespace wideep::alltoall::device {

inline constexpr int kPlanes = 3;   // vectors of a thread
inline constexpr int kPackets = 4;  // packets of a thread

struct Vectors {
  uint4 v[kPlanes] = {};
};

// Packets of one row begin at `to`; `lanes` threads send one row.
__device__ inline void send_packets(Packet* to, int lanes, int thread, const Vectors& row,
                                    uint32_t epoch) {
  const uint4& a = row.v[0];
  const uint4& b = row.v[1];
  const uint4& c = row.v[2];
  ptx::store_relaxed(to + thread, {{a.x, a.y, a.z}, epoch});
  ptx::store_relaxed(to + lanes + thread, {{a.w, b.x, b.y}, epoch});
  ptx::store_relaxed(to + 2 * lanes + thread, {{b.z, b.w, c.x}, epoch});
  ptx::store_relaxed(to + 3 * lanes + thread, {{c.y, c.z, c.w}, epoch});
}

// Polls all four at once, so that their latencies overlap.
__device__ inline bool receive_packets(const GroupView& g, const Wait& wait, const Packet* from,
                                       int lanes, int thread, Vectors& row) {
  Packet p[kPackets];
  const bool ok = wait_for(g, wait, [&](uint64_t& seen) {
    bool all = true;
#pragma unroll
    for (int i = 0; i < kPackets; ++i) {
      p[i] = ptx::load_relaxed(from + i * lanes + thread);
    }
#pragma unroll
    for (int i = 0; i < kPackets; ++i) {
      if (p[i].epoch == wait.epoch) continue;
      all = false;
      seen = p[i].epoch;
    }
    return all;
  });
  row.v[0] = {p[0].word[0], p[0].word[1], p[0].word[2], p[1].word[0]};
  row.v[1] = {p[1].word[1], p[1].word[2], p[2].word[0], p[2].word[1]};
  row.v[2] = {p[2].word[2], p[3].word[0], p[3].word[1], p[3].word[2]};
  return ok;
}

}  // namespace wideep::alltoall::device
