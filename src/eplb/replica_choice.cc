#include "eplb/replica_choice.h"

#include <algorithm>
#include <numeric>

namespace wideep::eplb {
namespace {

// Wide enough for any two int64 factors.
int64_t multiply_divide(int64_t a, int64_t b, int64_t divisor) {
  return static_cast<int64_t>(static_cast<__int128>(a) * b / divisor);
}

}  // namespace

ReplicaTable make_replica_table(const Shape& shape, std::span<const int> slots) {
  CHECK_EQ(static_cast<int>(slots.size()), shape.num_slots);
  ReplicaTable table;
  table.start.assign(shape.num_experts + 1, 0);
  for (const int expert : slots) {
    CHECK(expert >= 0 && expert < shape.num_experts);
    ++table.start[expert + 1];
  }
  for (int e = 0; e < shape.num_experts; ++e) {
    CHECK(table.start[e + 1] > 0);
    table.start[e + 1] += table.start[e];
  }
  table.slots.resize(slots.size());
  std::vector<int> next(table.start.begin(), table.start.end() - 1);
  for (int slot = 0; slot < shape.num_slots; ++slot) table.slots[next[slots[slot]]++] = slot;
  return table;
}

void round_robin_split(const ReplicaTable& table, std::span<const int64_t> counts,
                       std::span<int64_t> tokens_of_slot) {
  const int num_experts = table.num_experts();
  CHECK(counts.size() % num_experts == 0);
  const int num_sources = static_cast<int>(counts.size() / num_experts);
  std::fill(tokens_of_slot.begin(), tokens_of_slot.end(), 0);
  for (int source = 0; source < num_sources; ++source) {
    const auto row = counts.subspan(static_cast<size_t>(source) * num_experts, num_experts);
    for (int e = 0; e < num_experts; ++e) {
      const auto replicas = table.of(e);
      const int n = static_cast<int>(replicas.size());
      const int64_t each = row[e] / n;
      if (each > 0) {
        for (const int slot : replicas) tokens_of_slot[slot] += each;
      }
      for (int64_t i = each * n; i < row[e]; ++i) {
        ++tokens_of_slot[replicas[round_robin_replica(n, e, source, i)]];
      }
    }
  }
}

std::vector<int64_t> plan_quotas(const Shape& shape, std::span<const int> slots,
                                 std::span<const int64_t> tokens) {
  const ReplicaTable table = make_replica_table(shape, slots);
  std::vector<int64_t> tokens_of_slot(shape.num_slots);
  Splitter(shape, slots).split(tokens, tokens_of_slot);
  std::vector<int64_t> quotas(shape.num_slots);
  for (int e = 0; e < shape.num_experts; ++e) {
    const auto replicas = table.of(e);
    const int n = static_cast<int>(replicas.size());
    // Rounding the running sums instead of the shares makes the quotas sum to kQuotaOne exactly.
    int64_t sum = 0, cut = 0;
    for (int i = 0; i < n; ++i) {
      sum += tokens[e] > 0 ? tokens_of_slot[replicas[i]] : 1;
      const int64_t end = multiply_divide(sum, kQuotaOne, tokens[e] > 0 ? tokens[e] : n);
      quotas[replicas[i]] = end - cut;
      cut = end;
    }
  }
  return quotas;
}

void quota_ends(const ReplicaTable& table, std::span<const int64_t> quotas,
                std::span<const int64_t> tokens, std::span<int64_t> ends) {
  for (int e = 0; e < table.num_experts(); ++e) {
    int64_t quota = 0;
    for (int i = table.start[e]; i < table.start[e + 1]; ++i) {
      quota += quotas[table.slots[i]];
      ends[i] = (tokens[e] * quota + kQuotaOne / 2) / kQuotaOne;
    }
  }
}

void split_ends(const ReplicaTable& table, std::span<const int64_t> tokens_of_slot,
                std::span<int64_t> ends) {
  for (int e = 0; e < table.num_experts(); ++e) {
    int64_t end = 0;
    for (int i = table.start[e]; i < table.start[e + 1]; ++i) {
      ends[i] = end += tokens_of_slot[table.slots[i]];
    }
  }
}

void ends_to_tokens(const ReplicaTable& table, std::span<const int64_t> ends,
                    std::span<int64_t> tokens_of_slot) {
  for (int e = 0; e < table.num_experts(); ++e) {
    int64_t begin = 0;
    for (int i = table.start[e]; i < table.start[e + 1]; ++i) {
      tokens_of_slot[table.slots[i]] = ends[i] - begin;
      begin = ends[i];
    }
  }
}

int slot_of_token(const ReplicaTable& table, std::span<const int64_t> ends, int expert,
                  int64_t index) {
  const auto first = ends.begin() + table.start[expert];
  const auto last = ends.begin() + table.start[expert + 1];
  const auto replica = std::upper_bound(first, last, index);
  CHECK(replica != last);
  return table.slots[replica - ends.begin()];
}

BatchSplitter::BatchSplitter(ReplicaChoice choice, const Shape& shape, std::span<const int> slots,
                             std::vector<int64_t> quotas)
    : choice_(choice),
      table_(make_replica_table(shape, slots)),
      quotas_(std::move(quotas)),
      splitter_(shape, slots),
      totals_(shape.num_experts),
      ends_(shape.num_slots),
      tokens_of_slot_(shape.num_slots) {
  CHECK(choice != ReplicaChoice::kQuota || static_cast<int>(quotas_.size()) == shape.num_slots);
}

std::span<const int64_t> BatchSplitter::split(std::span<const int64_t> counts) {
  if (choice_ == ReplicaChoice::kRoundRobin) {
    round_robin_split(table_, counts, tokens_of_slot_);
    return tokens_of_slot_;
  }
  std::fill(totals_.begin(), totals_.end(), 0);
  for (size_t i = 0; i < counts.size(); i += totals_.size()) {
    for (size_t e = 0; e < totals_.size(); ++e) totals_[e] += counts[i + e];
  }
  if (choice_ == ReplicaChoice::kPerBatch) {
    splitter_.split(totals_, tokens_of_slot_);
  } else {
    ends_to_tokens(table_, ends(totals_), tokens_of_slot_);
  }
  return tokens_of_slot_;
}

std::span<const int64_t> BatchSplitter::ends(std::span<const int64_t> tokens) {
  CHECK(choice_ != ReplicaChoice::kRoundRobin);
  if (choice_ == ReplicaChoice::kPerBatch) {
    splitter_.split(tokens, tokens_of_slot_);
    split_ends(table_, tokens_of_slot_, ends_);
  } else {
    quota_ends(table_, quotas_, tokens, ends_);
  }
  return ends_;
}

}  // namespace wideep::eplb
