#include "eplb/draft_placement.h"

#include <algorithm>
#include <numeric>
#include <queue>
#include <utility>

#include "eplb/evaluate.h"

namespace wideep::eplb {

std::vector<int> choose_replicas(std::span<const double> tokens, int num_slots, int max_copies) {
  const int num_experts = static_cast<int>(tokens.size());
  CHECK(num_slots >= num_experts && num_slots <= int64_t{num_experts} * max_copies);
  std::vector<int> replicas(num_experts, 1);
  // Most tokens a copy first, then the smaller id.
  std::priority_queue<std::pair<double, int>> hottest;
  if (max_copies > 1) {
    for (int expert = 0; expert < num_experts; ++expert) hottest.emplace(tokens[expert], -expert);
  }
  for (int slot = num_experts; slot < num_slots; ++slot) {
    const int expert = -hottest.top().second;
    hottest.pop();
    ++replicas[expert];
    if (replicas[expert] < max_copies) {
      hottest.emplace(tokens[expert] / replicas[expert], -expert);
    }
  }
  return replicas;
}

DraftPlacement::DraftPlacement(const Shape& shape, std::span<const int64_t> tokens,
                               std::vector<int> replicas)
    : shape_(shape),
      tokens_(tokens.begin(), tokens.end()),
      replicas_(std::move(replicas)),
      slots_(shape.num_slots, kEmpty),
      held_(int64_t{shape.num_ranks} * shape.num_experts, 0),
      rank_tokens_(shape.num_ranks, 0),
      num_filled_(shape.num_ranks, 0) {
  CHECK_EQ(static_cast<int>(tokens.size()), shape.num_experts);
  double total = std::accumulate(tokens_.begin(), tokens_.end(), 0.0);
  if (total == 0) {
    std::fill(tokens_.begin(), tokens_.end(), 1.0);
    total = shape.num_experts;
  }
  mean_tokens_ = total / shape.num_ranks;
}

DraftPlacement DraftPlacement::of(const Shape& shape, std::span<const int64_t> tokens,
                                  std::span<const int> slots) {
  DraftPlacement placement(shape, tokens, count_replicas(shape, slots));
  for (int slot = 0; slot < shape.num_slots; ++slot) {
    placement.add(shape.rank_of(slot), slots[slot]);
  }
  return placement;
}

int DraftPlacement::fullest_rank() const {
  return static_cast<int>(std::max_element(rank_tokens_.begin(), rank_tokens_.end()) -
                          rank_tokens_.begin());
}

int DraftPlacement::lightest_free_rank(int expert) const {
  int lightest = -1;
  for (int rank = 0; rank < shape_.num_ranks; ++rank) {
    if (lightest >= 0 && rank_tokens_[rank] >= rank_tokens_[lightest]) continue;
    if (!is_full(rank) && held(rank, expert) == 0) lightest = rank;
  }
  return lightest;
}

void DraftPlacement::add(int rank, int expert) {
  CHECK(!is_full(rank));
  slots_[first_slot(rank) + num_filled_[rank]++] = expert;
  ++held_[int64_t{rank} * shape_.num_experts + expert];
  rank_tokens_[rank] += share(expert);
}

void DraftPlacement::swap(int slot_a, int slot_b) {
  const int a = shape_.rank_of(slot_a);
  const int b = shape_.rank_of(slot_b);
  const int expert_a = slots_[slot_a];
  const int expert_b = slots_[slot_b];
  const double difference = share(expert_a) - share(expert_b);
  rank_tokens_[a] -= difference;
  rank_tokens_[b] += difference;
  const int64_t num_experts = shape_.num_experts;
  --held_[a * num_experts + expert_a];
  ++held_[a * num_experts + expert_b];
  --held_[b * num_experts + expert_b];
  ++held_[b * num_experts + expert_a];
  std::swap(slots_[slot_a], slots_[slot_b]);
}

void DraftPlacement::overwrite(int slot, int expert) {
  const int old = slots_[slot];
  CHECK(old != expert && replicas_[old] >= 2);
  const int here = shape_.rank_of(slot);
  const double old_share = share(old);
  const double new_share_before = share(expert);
  const double old_share_after = tokens_[old] / (replicas_[old] - 1);
  const double new_share = tokens_[expert] / (replicas_[expert] + 1);
  rank_tokens_[here] += new_share - old_share;
  --held_[int64_t{here} * shape_.num_experts + old];
  for (int rank = 0; rank < shape_.num_ranks; ++rank) {
    rank_tokens_[rank] += held(rank, old) * (old_share_after - old_share) +
                          held(rank, expert) * (new_share - new_share_before);
  }
  ++held_[int64_t{here} * shape_.num_experts + expert];
  --replicas_[old];
  ++replicas_[expert];
  slots_[slot] = expert;
}

void DraftPlacement::add_rest() {
  std::vector<int> missing = replicas_;
  for (const int expert : slots_) {
    if (expert != kEmpty) --missing[expert];
  }
  std::vector<int> order(shape_.num_experts);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return share(a) > share(b); });
  for (const int expert : order) {
    for (int copy = 0; copy < missing[expert]; ++copy) {
      int rank = lightest_free_rank(expert);
      if (rank < 0) {
        make_room(expert);
        rank = lightest_free_rank(expert);
      }
      add(rank, expert);
    }
  }
}

// All ranks with a free slot hold the expert already: moves another expert from a full rank that
// lacks it into a free slot. One exists because an expert has at most as many copies as there are
// ranks.
void DraftPlacement::make_room(int expert) {
  int free_rank = 0;
  while (is_full(free_rank)) ++free_rank;
  for (int slot = 0; slot < shape_.num_slots; ++slot) {
    const int rank = shape_.rank_of(slot);
    const int moved = slots_[slot];
    if (!is_full(rank) || held(rank, expert) > 0 || held(free_rank, moved) > 0) continue;
    rank_tokens_[rank] -= share(moved);
    --held_[int64_t{rank} * shape_.num_experts + moved];
    slots_[slot] = slots_[first_slot(rank) + --num_filled_[rank]];
    slots_[first_slot(rank) + num_filled_[rank]] = kEmpty;
    add(free_rank, moved);
    return;
  }
  CHECK(false);
}

void DraftPlacement::sort_slots() {
  for (int rank = 0; rank < shape_.num_ranks; ++rank) {
    const auto first = slots_.begin() + first_slot(rank);
    std::sort(first, first + num_filled_[rank],
              [&](int a, int b) { return share(a) != share(b) ? share(a) > share(b) : a < b; });
  }
}

}  // namespace wideep::eplb
