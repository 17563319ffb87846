#include "eplb/baseline.h"

#include <algorithm>
#include <numeric>
#include <queue>
#include <utility>

namespace wideep::eplb {
namespace {

// A copy of an expert that waits for a slot.
struct Copy {
  int expert;
  double tokens;
};

// Largest first, then by expert.
bool comes_before(const Copy& a, const Copy& b) {
  return a.tokens != b.tokens ? a.tokens > b.tokens : a.expert < b.expert;
}

std::vector<Copy> make_copies(std::span<const int64_t> tokens, const std::vector<int>& replicas) {
  std::vector<Copy> copies;
  for (int expert = 0; expert < static_cast<int>(replicas.size()); ++expert) {
    const double share = static_cast<double>(static_cast<float>(tokens[expert])) / replicas[expert];
    copies.insert(copies.end(), replicas[expert], {expert, share});
  }
  std::sort(copies.begin(), copies.end(), comes_before);
  return copies;
}

// Ranks that fill up: slots in the order in which they were taken.
class Ranks {
 public:
  explicit Ranks(const Shape& shape)
      : width_(shape.slots_per_rank()), held_(shape.num_ranks), tokens_(shape.num_ranks, 0) {}

  void add(int rank, const Copy& copy) {
    held_[rank].push_back(copy.expert);
    tokens_[rank] += copy.tokens;
  }
  int num_held(int rank) const { return static_cast<int>(held_[rank].size()); }
  bool is_full(int rank) const { return num_held(rank) == width_; }
  double tokens(int rank) const { return tokens_[rank]; }
  const std::vector<int>& held(int rank) const { return held_[rank]; }

  // Each copy, in order, to the lightest rank that has a free slot; ties to the lower rank.
  void add_to_lightest(const std::vector<Copy>& copies) {
    using Entry = std::pair<double, int>;
    std::priority_queue<Entry, std::vector<Entry>, std::greater<>> lightest;
    for (int rank = 0; rank < static_cast<int>(held_.size()); ++rank) {
      if (!is_full(rank)) lightest.emplace(tokens_[rank], rank);
    }
    for (const Copy& copy : copies) {
      const int rank = lightest.top().second;
      lightest.pop();
      add(rank, copy);
      if (!is_full(rank)) lightest.emplace(tokens_[rank], rank);
    }
  }

  std::vector<int> slots() const {
    std::vector<int> all;
    for (const std::vector<int>& held : held_) all.insert(all.end(), held.begin(), held.end());
    return all;
  }

 private:
  const int width_;
  std::vector<std::vector<int>> held_;
  std::vector<double> tokens_;
};

// DeepSeek's balanced packing: items from the heaviest on, each to the lightest pack with a free
// place. Returns for each pack its items in that order. One item a pack: items stay in order.
std::vector<std::vector<int>> pack_evenly(const std::vector<float>& weights, int num_packs) {
  const int num_items = static_cast<int>(weights.size());
  const int places = num_items / num_packs;
  std::vector<std::vector<int>> packs(num_packs);
  std::vector<int> order(num_items);
  std::iota(order.begin(), order.end(), 0);
  if (places == 1) {
    for (int i = 0; i < num_items; ++i) packs[i] = {i};
    return packs;
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return weights[a] > weights[b]; });
  std::vector<float> pack_weights(num_packs, 0);
  for (const int item : order) {
    int lightest = -1;
    for (int pack = 0; pack < num_packs; ++pack) {
      if (static_cast<int>(packs[pack].size()) == places) continue;
      if (lightest < 0 || pack_weights[pack] < pack_weights[lightest]) lightest = pack;
    }
    packs[lightest].push_back(item);
    pack_weights[lightest] += weights[item];
  }
  return packs;
}

// Replicates the experts of one node to num_slots copies and packs them to its ranks.
void plan_node(const std::vector<int>& experts, std::span<const int64_t> tokens, int num_slots,
               int num_ranks, std::vector<int>& slots) {
  const int num_experts = static_cast<int>(experts.size());
  std::vector<int> physical(num_experts);  // index into experts of each copy
  std::iota(physical.begin(), physical.end(), 0);
  std::vector<float> copies(num_experts, 1);
  const auto share = [&](int i) { return static_cast<float>(tokens[experts[i]]) / copies[i]; };
  for (int slot = num_experts; slot < num_slots; ++slot) {
    int hottest = 0;
    for (int i = 1; i < num_experts; ++i) {
      if (share(i) > share(hottest)) hottest = i;
    }
    physical.push_back(hottest);
    ++copies[hottest];
  }
  std::vector<float> weights;
  for (const int i : physical) weights.push_back(share(i));
  for (const std::vector<int>& pack : pack_evenly(weights, num_ranks)) {
    for (const int slot : pack) slots.push_back(experts[physical[slot]]);
  }
}

}  // namespace

std::vector<int> tensorrt_llm_replicas(const Shape& shape, std::span<const int64_t> tokens) {
  std::vector<int> replicas(shape.num_experts, 1);
  if (std::all_of(tokens.begin(), tokens.end(), [](int64_t t) { return t == 0; })) {
    for (int expert = 0; expert < shape.num_experts; ++expert) {
      replicas[expert] =
          shape.num_slots / shape.num_experts + (expert < shape.num_slots % shape.num_experts);
    }
    return replicas;
  }
  std::priority_queue<std::pair<double, int>> hottest;
  const auto share = [&](int expert) {
    return static_cast<double>(static_cast<float>(tokens[expert])) / replicas[expert];
  };
  for (int expert = 0; expert < shape.num_experts; ++expert) hottest.emplace(share(expert), expert);
  for (int slot = shape.num_experts; slot < shape.num_slots; ++slot) {
    const int expert = hottest.top().second;
    hottest.pop();
    ++replicas[expert];
    hottest.emplace(share(expert), expert);
  }
  return replicas;
}

std::vector<int> tensorrt_llm_plan(const Shape& shape, std::span<const int64_t> tokens) {
  Ranks ranks(shape);
  ranks.add_to_lightest(make_copies(tokens, tensorrt_llm_replicas(shape, tokens)));
  return ranks.slots();
}

std::vector<int> deepseek_plan(const Shape& shape, std::span<const int64_t> tokens,
                               const DeepSeekOptions& options) {
  const bool hierarchical = options.num_groups % options.num_nodes == 0;
  const int num_groups = hierarchical ? options.num_groups : 1;
  const int num_nodes = hierarchical ? options.num_nodes : 1;
  CHECK(shape.num_experts % num_groups == 0 && shape.num_ranks % num_nodes == 0);
  const int group_size = shape.num_experts / num_groups;
  std::vector<float> group_tokens(num_groups, 0);
  for (int expert = 0; expert < shape.num_experts; ++expert) {
    group_tokens[expert / group_size] += static_cast<float>(tokens[expert]);
  }
  std::vector<int> slots;
  for (const std::vector<int>& groups : pack_evenly(group_tokens, num_nodes)) {
    std::vector<int> experts;
    for (const int group : groups) {
      for (int i = 0; i < group_size; ++i) experts.push_back(group * group_size + i);
    }
    plan_node(experts, tokens, shape.num_slots / num_nodes, shape.num_ranks / num_nodes, slots);
  }
  return slots;
}

std::vector<int> cooccurrence_plan(const Shape& shape, std::span<const int64_t> tokens,
                                   std::span<const int64_t> cooccurrence, double alpha) {
  const int num_experts = shape.num_experts;
  CHECK_EQ(static_cast<int>(cooccurrence.size()), num_experts * num_experts);
  std::vector<Copy> waiting = make_copies(tokens, tensorrt_llm_replicas(shape, tokens));
  double total = 0;
  for (const Copy& copy : waiting) total += copy.tokens;
  const double most_tokens = total / shape.num_ranks * alpha;
  const double most_slots = shape.slots_per_rank() * alpha;
  Ranks ranks(shape);
  for (int rank = 0; rank < shape.num_ranks && !waiting.empty(); ++rank) {
    auto next = waiting.begin();  // the hottest copy starts the rank
    std::vector<double> affinity(num_experts, 0);
    while (next != waiting.end() && ranks.num_held(rank) + 1 <= most_slots &&
           ranks.tokens(rank) + next->tokens <= most_tokens) {
      const int expert = next->expert;
      ranks.add(rank, *next);
      waiting.erase(next);
      for (int e = 0; e < num_experts; ++e) {
        affinity[e] += static_cast<double>(cooccurrence[expert * num_experts + e]);
      }
      affinity[expert] = -1e9;  // an expert once a rank
      next = std::max_element(waiting.begin(), waiting.end(), [&](const Copy& a, const Copy& b) {
        return affinity[a.expert] < affinity[b.expert];
      });
      if (next != waiting.end() && affinity[next->expert] < 0) break;
    }
  }
  ranks.add_to_lightest(waiting);
  return ranks.slots();
}

}  // namespace wideep::eplb
