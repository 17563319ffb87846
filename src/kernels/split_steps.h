// The steps of replica_choice.h for one expert, entry or token: what a kernel's threads do side by
// side, and what tests do one after the other on the host.
#pragma once

#include <cstdint>

#include "kernels/flow_split.h"
#include "kernels/replica_choice.h"

namespace wideep::kernels {

inline constexpr int kQuotaBits = 30;

WIDEEP_HOST_DEVICE inline void add_tokens(int32_t* to, int tokens) {
#ifdef __CUDA_ARCH__
  atomicAdd(to, tokens);
#else
  *to += tokens;
#endif
}

// What a split has beside the tables.
struct SplitScratch {
  int32_t* totals = nullptr;        // [num_experts] tokens of all ranks
  int32_t* place_tokens = nullptr;  // [num_slots] zeros at first
  SplitState state;                 // rank_tokens zeros at first

  WIDEEP_HOST_DEVICE SplitScratch(int32_t* memory, const ReplicaShape& shape) {
    totals = memory;
    place_tokens = totals + shape.num_experts;
    state.entry_tokens = place_tokens + shape.num_slots;
    state.rank_tokens = state.entry_tokens + shape.num_slots;
    state.queue = state.rank_tokens + shape.num_ranks;
    state.from = state.queue + shape.num_ranks;
  }
  WIDEEP_HOST_DEVICE static int size(const ReplicaShape& shape) {
    return shape.num_experts + 2 * shape.num_slots + 3 * shape.num_ranks;
  }
};

// Adds up an expert's counts of all ranks; the result is what comes before `rank`.
WIDEEP_HOST_DEVICE inline int sum_counts(const int32_t* counts, const ReplicaShape& shape, int rank,
                                         int expert, int32_t* totals) {
  int before = 0;
  int total = 0;
#ifdef __CUDA_ARCH__
#pragma unroll 8
#endif
  for (int r = 0; r < shape.num_ranks; ++r) {
    const int count = counts[static_cast<int64_t>(r) * shape.num_experts + expert];
    before += r < rank ? count : 0;
    total += count;
  }
  totals[expert] = total;
  return before;
}

// Spreads an expert's tokens evenly over its ranks, the first ones taking the rest.
WIDEEP_HOST_DEVICE inline void start_even(const ReplicaTables& at, const int32_t* tables,
                                          int expert, const SplitScratch& s) {
  const int tokens = s.totals[expert];
  const int home = tables[at.home + expert];
  if (home >= 0) {
    add_tokens(s.state.rank_tokens + home, tokens);
    s.place_tokens[tables[at.start + expert]] = tokens;
    return;
  }
  const int shared = -1 - home;
  const int first = tables[at.shared_begin + shared];
  const int copies = tables[at.shared_begin + shared + 1] - first;
  for (int i = 0; i < copies; ++i) {
    const int entry = tables[at.shared_entries + first + i];
    const int own = tokens / copies + (i < tokens % copies ? 1 : 0);
    s.state.entry_tokens[entry] = own;
    add_tokens(s.state.rank_tokens + tables[at.entry_rank + entry], own);
  }
}

// After the flow: what an entry has.
WIDEEP_HOST_DEVICE inline void take_entry(const ReplicaTables& at, const int32_t* tables, int entry,
                                          const SplitScratch& s) {
  s.place_tokens[tables[at.entry_place + entry]] = s.state.entry_tokens[entry];
}

// ends: [num_slots], those of the expert's places are written.
WIDEEP_HOST_DEVICE inline void cut_expert(const ReplicaTables& at, const int32_t* tables,
                                          int expert, const int32_t* place_tokens, int32_t* ends) {
  int end = 0;
  for (int i = tables[at.start + expert]; i < tables[at.start + expert + 1]; ++i) {
    end += place_tokens[i];
    ends[i] = end;
  }
}
WIDEEP_HOST_DEVICE inline void cut_by_quota(const ReplicaTables& at, const int32_t* tables,
                                            int expert, int tokens, int32_t* ends) {
  for (int i = tables[at.start + expert]; i < tables[at.start + expert + 1]; ++i) {
    const int64_t part = static_cast<int64_t>(tokens) * tables[at.quota_ends + i];
    ends[i] = static_cast<int32_t>((part + (int64_t{1} << (kQuotaBits - 1))) >> kQuotaBits);
  }
}

// The slot of a rank's index-th token of an expert. begin, ends: null for round robin.
struct SlotChoice {
  ReplicaTables at;
  const int32_t* tables = nullptr;
  const int32_t* begin = nullptr;
  const int32_t* ends = nullptr;
  int rank = 0;

  WIDEEP_HOST_DEVICE int slot_of(int expert, int index) const {
    int place = tables[at.start + expert];
    int after = tables[at.start + expert + 1];
    if (ends == nullptr) {
      place += (rank + expert + index) % (after - place);
      return tables[at.slots + place];
    }
    // The first place that ends behind the token; one does.
    const int token = begin[expert] + index;
    while (after - place > 1) {
      const int middle = (place + after) / 2;
      if (ends[middle - 1] > token) {
        after = middle;
      } else {
        place = middle;
      }
    }
    return tables[at.slots + place];
  }
};

}  // namespace wideep::kernels
