// Which slot takes each (token, k), on a GPU: the rules of eplb/replica_choice.h, number for
// number. CUDA only; the CPU's twin is moe/slot_chooser.h.
//
//   make_permutation   place of each pair among this rank's pairs of its expert, and their counts
//   (the counts of all ranks are exchanged, where replicas are chosen by them)
//   split_batch        where each expert's tokens are cut, in one thread block
//   choose_slots       the slot of each pair
//
// The tables of a placement are written by the host in between two batches; they never change their
// address or size, so that a captured graph goes on with another placement.
#pragma once

#include <cstdint>
#include <span>

#include "base/stream.h"
#include "kernels/flow_split.h"

namespace wideep::kernels {

struct ReplicaShape {
  int num_experts = 0;
  int num_slots = 0;  // of all ranks
  int num_ranks = 0;  // at most kMaxSplitRanks

  WIDEEP_HOST_DEVICE int rank_words() const { return words_of_ranks(num_ranks); }
};

// Where one layer's placement lies in one piece of memory of int32, from a multiple of 16 bytes on.
// There is room for any placement of the shape. A place is a slot in the order of experts; slots of
// an expert are in ascending order.
struct ReplicaTables {
  static ReplicaTables of(const ReplicaShape& shape);

  WIDEEP_HOST_DEVICE SplitGraph graph(const int32_t* memory, const ReplicaShape& shape) const {
    return {shape.num_ranks,      slots_per_rank,        memory + start,
            memory + place_rank,  memory + place_expert, memory + place_ranks,
            memory + rank_places, memory + rank_shared};
  }

  int slots_per_rank = 0;
  // Where each begins:
  int start = 0;  // [num_experts + 1] first place of each expert
  int slots = 0;  // [num_slots] the slot of each place
  // [num_slots] running sums of the quotas of an expert's places, in units of 2^-30.
  int quota_ends = 0;
  int copies = 0;  // [num_experts] ranks that have an expert
  // See SplitGraph.
  int place_rank = 0;
  int place_expert = 0;
  int place_ranks = 0;
  int rank_places = 0;
  int rank_shared = 0;
  // See eplb/split_forest.h; of places that are not shared, equal.
  int order = 0;       // [num_ranks]
  int part_begin = 0;  // [num_ranks]
  int part_end = 0;    // [num_ranks]
  int give_begin = 0;  // [num_slots]
  int give_end = 0;    // [num_slots]
  int size = 0;        // a multiple of 4
};

enum class SplitRule { kQuota, kPerBatch };

// Bytes of shared memory that split_batch takes; the device has kMaxSplitBytes.
inline constexpr int64_t kMaxSplitBytes = int64_t{200} << 10;
int64_t split_bytes(const ReplicaShape& shape);

struct SplitBatchParams {
  ReplicaShape shape;
  const int32_t* tables = nullptr;  // ReplicaTables
  SplitRule rule = SplitRule::kPerBatch;
  int rank = 0;                     // of this device's tokens
  const int32_t* counts = nullptr;  // [num_ranks, num_experts] of all ranks; their sum is < 2^31
  int32_t* begin = nullptr;         // [num_experts], out: tokens of the ranks before this one
  int32_t* ends = nullptr;          // [num_slots], out: one past the last token of each place
};
void split_batch(Stream& stream, const SplitBatchParams& params);

struct ChooseSlotsParams {
  ReplicaShape shape;
  const int32_t* tables = nullptr;
  int rank = 0;
  std::span<const int32_t> ids;  // [pairs] experts; below 0: none
  // Of make_permutation with the experts as groups, side by side: rows[p] - offsets[id] is a pair's
  // place among those of its expert. Null where no expert has replicas.
  const int* rows = nullptr;
  const int* offsets = nullptr;
  // Of split_batch; null: round robin.
  const int32_t* begin = nullptr;
  const int32_t* ends = nullptr;
  int32_t* slots = nullptr;  // [pairs], out; -1 where there is no expert
};
void choose_slots(Stream& stream, const ChooseSlotsParams& params);

// counts[c] += the sum over rows of rows[r, c]. rows [num_rows, counts.size()].
void add_row_sums(Stream& stream, const int32_t* rows, int num_rows, std::span<int32_t> counts);

// counts[i] = how many ids are i; ids below 0 are none.
void count_ids(Stream& stream, std::span<const int32_t> ids, std::span<int32_t> counts);

}  // namespace wideep::kernels
