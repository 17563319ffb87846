#include "eplb/recourse.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "eplb/balance.h"

namespace wideep::eplb {
namespace {

// A tree that leaves the fullest rank this much over the mean cost too much balance: try another.
constexpr double kTreeTolerance = 1e-3;

// Where a shared expert joins the ranks that its tree has reached.
enum class Anchor {
  kShallowest,  // the rank nearest to the middle: stars, which have the most recourse
  kLightest,    // the rank with the fewest tokens: leaves more freedom to balance
};

// Ranks that will form one connected part of the graph.
struct Component {
  int num_ranks = 0;
  int spare = 0;             // copies that its tree can still take
  std::vector<int> experts;  // shared experts that join it
};

class TreeBuilder {
 public:
  TreeBuilder(DraftPlacement& placement, Anchor anchor)
      : placement_(placement), anchor_(anchor), depth_(placement.shape().num_ranks, -1) {
    for (int expert = 0; expert < placement.shape().num_experts; ++expert) {
      if (placement.replicas(expert) > 1) shared_.push_back(expert);
    }
  }

  void build() {
    filler_ = small_share();
    int first_rank = 0;
    for (Component& component : assign_components()) {
      grow(component, first_rank);
      first_rank += component.num_ranks;
    }
  }

 private:
  // Equal components, then each shared expert to the one with the most spare copies; an expert with
  // more copies than any has room for takes ranks from the others.
  std::vector<Component> assign_components() {
    const Shape& shape = placement_.shape();
    const int num_spare = shape.num_slots - shape.num_experts;
    const int count = std::max(1, shape.num_ranks - num_spare);
    std::vector<Component> components(count);
    for (int c = 0; c < count; ++c) {
      components[c].num_ranks = shape.num_ranks / count + (c < shape.num_ranks % count);
      components[c].spare = components[c].num_ranks - 1;
    }
    std::stable_sort(shared_.begin(), shared_.end(), [&](int a, int b) {
      if (placement_.replicas(a) != placement_.replicas(b)) {
        return placement_.replicas(a) > placement_.replicas(b);
      }
      return placement_.share(a) > placement_.share(b);
    });
    const auto has_less = [](const Component& a, const Component& b) { return a.spare < b.spare; };
    for (const int expert : shared_) {
      const int wanted = placement_.replicas(expert) - 1;
      auto roomiest = std::max_element(components.begin(), components.end(), has_less);
      while (roomiest->spare < wanted && take_rank(components, *roomiest)) {
      }
      roomiest->spare -= wanted;
      roomiest->experts.push_back(expert);
    }
    return components;
  }

  // Moves an unused rank to the component from the one that has the most of them.
  static bool take_rank(std::vector<Component>& components, Component& taker) {
    Component* giver = nullptr;
    for (Component& component : components) {
      if (&component == &taker || component.spare <= 0) continue;
      if (giver == nullptr || component.spare > giver->spare) giver = &component;
    }
    if (giver == nullptr) return false;
    --giver->num_ranks;
    --giver->spare;
    ++taker.num_ranks;
    ++taker.spare;
    return true;
  }

  // Places the component's shared experts, largest share first: one copy on a rank that the tree
  // has reached, the others on fresh ranks. When no rank is fresh any more, on the lightest ranks.
  void grow(Component& component, int first_rank) {
    std::stable_sort(component.experts.begin(), component.experts.end(),
                     [&](int a, int b) { return placement_.share(a) > placement_.share(b); });
    reached_.clear();
    fresh_ = first_rank;
    end_ = first_rank + component.num_ranks;
    for (const int expert : component.experts) {
      int depth = 0;
      int copies = placement_.replicas(expert);
      if (const int anchor = find_anchor(expert); anchor >= 0) {
        placement_.add(anchor, expert);
        depth = depth_[anchor] + 1;
        --copies;
      }
      for (; copies > 0; --copies) {
        const int rank = fresh_ < end_ ? reach_fresh(depth) : placement_.lightest_free_rank(expert);
        if (rank < 0) break;  // add_rest makes room
        placement_.add(rank, expert);
      }
    }
  }

  int reach_fresh(int depth) {
    depth_[fresh_] = depth;
    reached_.push_back(fresh_);
    return fresh_++;
  }

  // -1: none can take the expert within the mean; balance comes first, a new tree starts.
  int find_anchor(int expert) const {
    int best = -1;
    for (const double filler : {filler_, 0.0}) {
      for (const int rank : reached_) {
        if (!fits(rank, expert, filler)) continue;
        if (best < 0 || is_better_anchor(rank, best)) best = rank;
      }
      if (best >= 0) break;
    }
    return best;
  }

  bool is_better_anchor(int a, int b) const {
    if (anchor_ == Anchor::kShallowest && depth_[a] != depth_[b]) return depth_[a] < depth_[b];
    return placement_.rank_tokens(a) < placement_.rank_tokens(b);
  }

  // The rank can take the expert and fill its other slots, `filler` tokens each, within the mean.
  bool fits(int rank, int expert, double filler) const {
    if (placement_.is_full(rank) || placement_.held(rank, expert) > 0) return false;
    const int left = placement_.shape().slots_per_rank() - placement_.num_filled(rank) - 1;
    return placement_.rank_tokens(rank) + placement_.share(expert) + left * filler <=
           placement_.mean_tokens();
  }

  // Mean of the smallest third of the experts with one replica: what can fill a rank up.
  double small_share() const {
    std::vector<double> shares;
    for (int expert = 0; expert < placement_.shape().num_experts; ++expert) {
      if (placement_.replicas(expert) == 1) shares.push_back(placement_.share(expert));
    }
    if (shares.empty()) return 0;
    const auto third = static_cast<ptrdiff_t>((shares.size() + 2) / 3);
    std::nth_element(shares.begin(), shares.begin() + third - 1, shares.end());
    return std::accumulate(shares.begin(), shares.begin() + third, 0.0) /
           static_cast<double>(third);
  }

  DraftPlacement& placement_;
  const Anchor anchor_;
  std::vector<int> shared_;   // experts with several replicas
  std::vector<int> reached_;  // ranks of the tree that grows
  std::vector<int> depth_;    // [num_ranks] steps from the middle of the tree
  int fresh_ = 0;             // first rank of the component that no tree has reached
  int end_ = 0;               // one past its last
  double filler_ = 0;
};

DraftPlacement build(const DraftPlacement& empty, Anchor anchor) {
  DraftPlacement placement = empty;
  TreeBuilder(placement, anchor).build();
  placement.add_rest();
  BalanceOptions options;
  for (int expert = 0; expert < empty.shape().num_experts; ++expert) {
    options.fixed.push_back(placement.replicas(expert) > 1);
  }
  balance(placement, options);
  return placement;
}

}  // namespace

DraftPlacement recourse_placement(const Shape& shape, std::span<const int64_t> tokens) {
  const std::vector<double> weights(tokens.begin(), tokens.end());
  const DraftPlacement empty(shape, tokens,
                             choose_replicas(weights, shape.num_slots, shape.num_ranks));
  DraftPlacement best = build(empty, Anchor::kShallowest);
  if (best.max_over_mean() <= 1 + kTreeTolerance) return best;
  DraftPlacement lighter = build(empty, Anchor::kLightest);
  if (lighter.max_over_mean() < best.max_over_mean()) best = std::move(lighter);
  return best;
}

}  // namespace wideep::eplb
