// Rows on their way through shared memory: one warp has the copy engine fetch them, as many ahead
// as the ring holds, others sum them. Registers could not keep as much in flight.
#pragma once

#include <cstdint>

#include "alltoall/nvlink_device.cuh"

namespace wideep::alltoall::device {

// What to do with a row of the ring, or a part of its columns.
enum RowFlags : uint32_t {
  kFirstOfItem = 1,
  kFirstOfPart = 2,
  kLastOfPart = 4,
  kLastOfItem = 8,
  kComplete = 16,  // the last columns of the item
  kNoRow = 32,     // an item without rows
  kStop = 64,
};

struct RowTask {
  std::byte* to;  // where the item's columns go
  int64_t token;
  float weight;
  uint32_t flags;
  int bytes;
  int offset;  // of the columns in the row
};

inline constexpr int kMaxEntries = 16;

// In shared memory, with `entries` times `entry_bytes` behind it.
struct RingState {
  uint64_t full[kMaxEntries];
  uint64_t empty[kMaxEntries];
  RowTask tasks[kMaxEntries];
};

// One end of a ring; each warp has its own copy and walks in step with the others.
struct Ring {
  RingState* state;
  std::byte* rows;
  int entries;
  int entry_bytes;
  int entry = 0;
  uint32_t phase = 0;

  __device__ void advance() {
    if (++entry == entries) {
      entry = 0;
      phase ^= 1U;
    }
  }
  __device__ std::byte* row() const { return rows + int64_t{entry} * entry_bytes; }

  // By one thread, before a barrier of the block.
  __device__ void init(int consumer_warps) const {
    for (int i = 0; i < entries; ++i) {
      ptx::init_barrier(&state->full[i], 1);
      ptx::init_barrier(&state->empty[i], consumer_warps);
    }
  }

  // By one warp: fetches a row as soon as there is room.
  __device__ void put(const std::byte* from, const RowTask& task) {
    if (lane_id() == 0) {
      while (!ptx::try_wait(&state->empty[entry], phase ^ 1U)) {
      }
      // The consumers' reads come before the copy engine's writes. Here rather than in the
      // consumers, whose stores over the links such a fence would wait for.
      ptx::fence_copy_engine_shared();
      state->tasks[entry] = task;
      const bool has_row = (task.flags & (kNoRow | kStop)) == 0;
      ptx::arrive_expecting(&state->full[entry], has_row ? task.bytes : 0);
      if (has_row) ptx::load_bulk(row(), from, task.bytes, &state->full[entry]);
    }
    __syncwarp();
    advance();
  }

  // By all consumers: the next row's task, when it is here.
  __device__ RowTask get() const {
    while (!ptx::try_wait(&state->full[entry], phase)) {
    }
    return state->tasks[entry];
  }
  // When this warp has read the row.
  __device__ void release() {
    __syncwarp();
    if (lane_id() == 0) ptx::arrive(&state->empty[entry]);
    advance();
  }
};

}  // namespace wideep::alltoall::device
