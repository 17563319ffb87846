// What one rank asks for in a collective, and the rules that the calls of a group must keep. Both
// transports gather the calls of all ranks before they move data, and judge them with the same
// functions, so every rank of the group gets the same answer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"

namespace wideep::dist {

enum class Op : int32_t {
  kBarrier,
  kBroadcast,
  kAllGather,
  kAllGatherV,
  kAllReduceSumFloat,
  kAllReduceSumInt64,
  kAllReduceMaxInt64,
  kReduceScatterV,
  kAllToAllV,
  kSplit,
  kEnd,  // a rank's body has returned: no rank of the world may wait for it any more
};

const char* op_name(Op op);

// Ops that work on one buffer use `out` for it.
struct Call {
  Op op = Op::kBarrier;
  int root = 0;   // kBroadcast
  int color = 0;  // kSplit
  int key = 0;    // kSplit
  std::span<const std::byte> in = {};
  std::span<std::byte> out = {};
  // [size] kAllGatherV: bytes of each rank; kReduceScatterV: floats of each rank; kAllToAllV: bytes
  // to each rank.
  std::span<const int64_t> counts = {};
  std::span<const int64_t> recv_counts = {};  // [size] kAllToAllV: bytes from each rank
};

// The part of a call that has one size whatever the group's; a transport may send it around.
struct CallHeader {
  Op op = Op::kBarrier;
  int32_t root = 0;
  int32_t color = 0;
  int32_t key = 0;
  int64_t in_bytes = 0;
  int64_t out_bytes = 0;
  int64_t num_counts = 0;
  int64_t num_recv_counts = 0;
  uint64_t counts_hash = 0;  // of `counts`, for the ops whose ranks must pass the same counts
};

CallHeader header_of(const Call& call);

// A header with the counts that belong to it.
struct CallRecord {
  CallHeader header;
  std::span<const int64_t> counts;
  std::span<const int64_t> recv_counts;
};

// Whether the ranks make the same call: op, root, lengths of their counts. kAborted naming two
// ranks and what each passes. `records` and `world_ranks` have one entry a rank of the group; the
// counts are not read.
Status check_same_call(std::span<const CallRecord> records, std::span<const int> world_ranks);

// Whether the sizes of calls that passed check_same_call fit each other.
Status check_sizes(std::span<const CallRecord> records, std::span<const int> world_ranks);

// The ranks, of those that the records are from, whose split has `color`, in their order in the new
// group.
std::vector<int> ranks_of_color(std::span<const CallRecord> records, int color);

// Whether a message of `sent` bytes fits the `expected` bytes of its recv; ranks of the world.
Status check_message_size(int receiver, size_t expected, int sender, size_t sent, int tag);

inline bool has_counts(Op op) {
  return op == Op::kAllGatherV || op == Op::kReduceScatterV || op == Op::kAllToAllV;
}

int64_t sum_of(std::span<const int64_t> counts);

}  // namespace wideep::dist
