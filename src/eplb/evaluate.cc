#include "eplb/evaluate.h"

#include <algorithm>
#include <numeric>

namespace wideep::eplb {
namespace {

template <typename T>
double max_over_mean_of(std::span<const T> values) {
  if (values.empty()) return 1;
  double sum = 0;
  double max = 0;
  for (const T value : values) {
    sum += static_cast<double>(value);
    max = std::max(max, static_cast<double>(value));
  }
  return sum > 0 ? max * static_cast<double>(values.size()) / sum : 1;
}

// Smallest possible size of the largest replica: every spare slot goes to the expert with the most
// tokens a copy, which is exact (an exchange argument; facts of EPLB's replication step).
double smallest_largest_replica(std::span<const int64_t> tokens, int num_spare, int max_copies) {
  using Entry = std::pair<double, int>;  // tokens a copy, expert
  std::vector<Entry> heap;
  for (size_t e = 0; e < tokens.size(); ++e) {
    heap.emplace_back(static_cast<double>(tokens[e]), static_cast<int>(e));
  }
  std::make_heap(heap.begin(), heap.end());
  std::vector<int> copies(tokens.size(), 1);
  for (int i = 0; i < num_spare; ++i) {
    const int expert = heap.front().second;
    // With a copy on every rank already, more copies do not make it smaller.
    if (copies[expert] == max_copies) break;
    const int c = ++copies[expert];
    std::pop_heap(heap.begin(), heap.end());
    heap.back().first = static_cast<double>(tokens[expert]) / c;
    std::push_heap(heap.begin(), heap.end());
  }
  return heap.empty() ? 0 : heap.front().first;
}

}  // namespace

std::vector<int> count_replicas(const Shape& shape, std::span<const int> slots) {
  CHECK_EQ(static_cast<int>(slots.size()), shape.num_slots);
  std::vector<int> replicas(shape.num_experts, 0);
  for (const int expert : slots) {
    CHECK(expert >= 0 && expert < shape.num_experts);
    ++replicas[expert];
  }
  return replicas;
}

std::vector<double> even_rank_tokens(const Shape& shape, std::span<const int> slots,
                                     std::span<const int64_t> tokens) {
  const std::vector<int> replicas = count_replicas(shape, slots);
  std::vector<double> rank_tokens(shape.num_ranks, 0.0);
  for (int slot = 0; slot < shape.num_slots; ++slot) {
    const auto expert = slots[slot];
    rank_tokens[shape.rank_of(slot)] += static_cast<double>(tokens[expert]) / replicas[expert];
  }
  return rank_tokens;
}

double max_over_mean(std::span<const double> values) {
  return max_over_mean_of(values);
}
double max_over_mean(std::span<const int64_t> values) {
  return max_over_mean_of(values);
}

int count_duplicates(const Shape& shape, std::span<const int> slots) {
  int duplicates = 0;
  const int width = shape.slots_per_rank();
  std::vector<int> held;
  for (int rank = 0; rank < shape.num_ranks; ++rank) {
    const auto first = slots.begin() + static_cast<ptrdiff_t>(rank) * width;
    held.assign(first, first + width);
    std::sort(held.begin(), held.end());
    const auto distinct = std::unique(held.begin(), held.end()) - held.begin();
    duplicates += width - static_cast<int>(distinct);
  }
  return duplicates;
}

int count_components(const Shape& shape, std::span<const int> slots) {
  std::vector<int> parent(shape.num_ranks);
  std::iota(parent.begin(), parent.end(), 0);
  const auto root = [&](int rank) {
    while (parent[rank] != rank) rank = parent[rank];
    return rank;
  };
  int components = shape.num_ranks;
  std::vector<int> first_rank(shape.num_experts, -1);
  for (int slot = 0; slot < shape.num_slots; ++slot) {
    int& first = first_rank[slots[slot]];
    if (first < 0) first = shape.rank_of(slot);
    const int a = root(first);
    const int b = root(shape.rank_of(slot));
    if (a == b) continue;
    parent[b] = a;
    --components;
  }
  return components;
}

double even_lower_bound(const Shape& shape, std::span<const int64_t> tokens) {
  const double total =
      static_cast<double>(std::accumulate(tokens.begin(), tokens.end(), int64_t{0}));
  if (total == 0) return 1;
  const int num_spare = shape.num_slots - shape.num_experts;
  double fullest = smallest_largest_replica(tokens, num_spare, shape.num_ranks);
  if (num_spare == 0) {
    // The rank of the largest expert holds slots_per_rank - 1 others, at best the smallest ones.
    std::vector<int64_t> sorted(tokens.begin(), tokens.end());
    std::sort(sorted.begin(), sorted.end());
    fullest += static_cast<double>(
        std::accumulate(sorted.begin(), sorted.begin() + shape.slots_per_rank() - 1, int64_t{0}));
  }
  return std::max(1.0, fullest * shape.num_ranks / total);
}

std::vector<int> default_assignment(const Shape& shape) {
  std::vector<int> slots;
  slots.reserve(shape.num_slots);
  for (int rank = 0; rank < shape.num_ranks; ++rank) {
    const int first = static_cast<int>(int64_t{rank} * shape.num_experts / shape.num_ranks);
    for (int j = 0; j < shape.slots_per_rank(); ++j)
      slots.push_back((first + j) % shape.num_experts);
  }
  return slots;
}

}  // namespace wideep::eplb
