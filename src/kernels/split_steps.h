// The steps of replica_choice.h for one expert, entry or token: what a kernel's threads do side by
// side, and what tests do one after the other on the host.
#pragma once

#include <cstdint>

#include "kernels/flow_split.h"
#include "kernels/replica_choice.h"

namespace wideep::kernels {

inline constexpr int kQuotaBits = 30;

// What a split has beside the tables.
struct SplitScratch {
  int32_t* totals = nullptr;   // [num_experts] tokens of all ranks; zeros at first
  int32_t* before = nullptr;   // [num_experts] tokens of the ranks before this one; zeros at first
  int32_t* surplus = nullptr;  // [num_ranks + 1] of the ranks of a part before a position
  SplitState state;

  WIDEEP_HOST_DEVICE SplitScratch(int32_t* memory, const ReplicaShape& shape) {
    totals = memory;
    before = totals + shape.num_experts;
    surplus = before + shape.num_experts;
    state.bounds = surplus + shape.num_ranks + 1;
    state.rank_tokens = state.bounds + shape.num_ranks;
    state.place_tokens = state.rank_tokens + shape.num_ranks;
  }
  WIDEEP_HOST_DEVICE static int size(const ReplicaShape& shape) {
    return 2 * shape.num_experts + shape.num_slots + 3 * shape.num_ranks + 1;
  }
};

// Adds the counts of every `step`-th rank from `first` on to those of an expert.
WIDEEP_HOST_DEVICE inline void add_counts(const int32_t* counts, const ReplicaShape& shape,
                                          int rank, int expert, int first, int step,
                                          const SplitScratch& s) {
  constexpr int kAtOnce = 8;  // loads under way
  int before = 0;
  int total = 0;
  WIDEEP_UNROLL(1)
  for (int begin = first; begin < shape.num_ranks; begin += kAtOnce * step) {
    int32_t own[kAtOnce];
    for (int i = 0; i < kAtOnce; ++i) {
      const int r = begin + i * step;
      own[i] = r < shape.num_ranks ? counts[r * shape.num_experts + expert] : 0;
    }
    for (int i = 0; i < kAtOnce; ++i) {
      before += begin + i * step < rank ? own[i] : 0;
      total += own[i];
    }
  }
  add_tokens(s.totals + expert, total);
  add_tokens(s.before + expert, before);
}

// Spreads an expert's tokens evenly over its ranks, the first ones taking the rest. Second copies
// on a rank get none.
WIDEEP_HOST_DEVICE inline void start_even(const ReplicaTables& at, const int32_t* tables,
                                          int expert, const SplitScratch& s) {
  const int tokens = s.totals[expert];
  const int copies = tables[at.copies + expert];
  const int share = tokens / copies;
  const int rest = tokens - share * copies;
  int copy = 0;
  int last_rank = -1;
  const int end = tables[at.start + expert + 1];
  WIDEEP_UNROLL(1)
  for (int i = tables[at.start + expert]; i < end; ++i) {
    const int rank = tables[at.place_rank + i];
    const bool is_second = rank == last_rank;
    s.state.place_tokens[i] = is_second ? 0 : share + (copy < rest ? 1 : 0);
    copy += is_second ? 0 : 1;
    last_rank = rank;
  }
}

struct RankSums {
  int all = 0;
  int own = 0;  // of experts that no other rank has
};

// The tokens of every `step`-th slot of a rank from its `first` on.
WIDEEP_HOST_DEVICE inline RankSums sum_slots(const ReplicaTables& at, const int32_t* tables,
                                             int rank, int first, int step, const SplitScratch& s) {
  const int32_t* const places = tables + at.rank_places + rank * at.slots_per_rank;
  const int shared = tables[at.rank_shared + rank];
  RankSums sums;
  WIDEEP_UNROLL(4)
  for (int i = first; i < at.slots_per_rank; i += step) {
    const int tokens = s.state.place_tokens[places[i]];
    sums.all += tokens;
    sums.own += i < shared ? 0 : tokens;
  }
  return sums;
}
// No split takes from a rank what is its own.
WIDEEP_HOST_DEVICE inline void set_rank(int rank, const RankSums& sums, const SplitScratch& s) {
  s.state.rank_tokens[rank] = sums.all;
  s.state.bounds[rank] = sums.own;
}

// For a position in the order of ranks, [0, num_ranks]: what the ranks of its part that come before
// have over what they are to have, which is the same for all, the first ones taking the rest.
// O(ranks of the part).
WIDEEP_HOST_DEVICE inline void weigh_part(const ReplicaTables& at, const int32_t* tables,
                                          const ReplicaShape& shape, int position,
                                          const SplitScratch& s) {
  if (position == shape.num_ranks) {
    s.surplus[position] = 0;
    return;
  }
  const int begin = tables[at.part_begin + position];
  const int end = tables[at.part_end + position];
  int before = 0;
  int total = 0;
  WIDEEP_UNROLL(4)
  for (int i = begin; i < end; ++i) {
    const int tokens = s.state.rank_tokens[tables[at.order + i]];
    before += i < position ? tokens : 0;
    total += tokens;
  }
  const int mean = total / (end - begin);
  const int rest = total - mean * (end - begin);
  const int index = position - begin;
  s.surplus[position] = before - index * mean - (index < rest ? index : rest);
  const int bound = mean + (rest > 0 ? 1 : 0);
  if (bound > s.state.bounds[position]) s.state.bounds[position] = bound;
}

// Balances the parts along the forest, as far as an expert does it. True: one of its replicas would
// have to give more than it has. It gives all; those that were to take what is missing take less,
// the first ones first.
WIDEEP_HOST_DEVICE inline bool balance_expert(const ReplicaTables& at, const int32_t* tables,
                                              int expert, const SplitScratch& s) {
  if (tables[at.copies + expert] == 1) return false;
  const int begin = tables[at.start + expert];
  const int end = tables[at.start + expert + 1];
  const auto gives = [&](int place) {
    return s.surplus[tables[at.give_end + place]] - s.surplus[tables[at.give_begin + place]];
  };
  const auto give = [&](int place, int tokens) {
    s.state.place_tokens[place] -= tokens;
    add_tokens(s.state.rank_tokens + tables[at.place_rank + place], -tokens);
  };
  int missing = 0;
  WIDEEP_UNROLL(1)
  for (int i = begin; i < end; ++i) {
    const int wanted = gives(i);
    const int had = s.state.place_tokens[i];
    missing += wanted > had ? wanted - had : 0;
    give(i, wanted > had ? had : wanted);
  }
  if (missing == 0) return false;
  WIDEEP_UNROLL(1)
  for (int i = begin; i < end; ++i) {
    const int taken = -gives(i);
    const int less = taken < 0 ? 0 : taken < missing ? taken : missing;
    give(i, less);
    missing -= less;
  }
  return true;
}

// ends: [num_slots], those of the expert's places are written.
WIDEEP_HOST_DEVICE inline void cut_expert(const ReplicaTables& at, const int32_t* tables,
                                          int expert, const int32_t* place_tokens, int32_t* ends) {
  int end = 0;
  const int after = tables[at.start + expert + 1];
  WIDEEP_UNROLL(1)
  for (int i = tables[at.start + expert]; i < after; ++i) {
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
