#include "eplb/incremental.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "eplb/draft_placement.h"
#include "eplb/evaluate.h"

namespace wideep::eplb {
namespace {

constexpr int kBisections = 10;
constexpr double kEnough = 2e-4;
// Even-split max/mean that one part less of the rank graph is worth: about what the best split of a
// batch of some hundred tokens a rank loses with each further part (docs/performance.md).
constexpr double kComponentPrice = 2e-3;
// Added to a step's transfers when gains are compared, so that free steps rank first and finitely.
constexpr double kFreeStepCost = 0.25;

// Greedy steps from the previous placement until no rank is over `target` tokens.
class ExcessSearch {
 public:
  ExcessSearch(const DraftPlacement& previous, double target, int max_transfers,
               bool keep_connected)
      : placement_(previous),
        shape_(previous.shape()),
        target_(target),
        max_transfers_(max_transfers < 0 ? std::numeric_limits<int>::max() : max_transfers),
        was_held_(int64_t{shape_.num_ranks} * shape_.num_experts, 0),
        ranks_of_(shape_.num_experts),
        share_(shape_.num_slots) {
    for (int slot = 0; slot < shape_.num_slots; ++slot) {
      const int rank = shape_.rank_of(slot);
      was_held_[index(rank, previous.expert(slot))] = 1;
    }
    for (int expert = 0; expert < shape_.num_experts; ++expert) index_ranks(expert);
    most_components_ =
        keep_connected ? count_components(shape_, previous.slots()) : shape_.num_ranks;
  }

  // True where every rank got under the target.
  bool run() {
    while (true) {
      double excess = 0;
      for (int rank = 0; rank < shape_.num_ranks; ++rank) excess += over(rank, 0);
      if (excess <= placement_.mean_tokens() * 1e-12) return true;
      best_ = {};
      best_.score = excess * 1e-9;
      find_overwrites();
      find_exchanges();
      if (best_.kind == Step::kNone) return false;
      apply();
    }
  }

  const DraftPlacement& placement() const { return placement_; }

 private:
  struct Step {
    enum Kind { kNone, kOverwrite, kExchange } kind = kNone;
    double score = 0;  // tokens of excess removed per transfer
    int cost = 0;      // transfers
    int slot = 0;
    int expert = 0;  // kOverwrite: the expert that moves in
    int other = 0;   // kExchange: the other slot
  };

  int64_t index(int rank, int expert) const { return int64_t{rank} * shape_.num_experts + expert; }

  // Tokens over the target if the rank got `change` more.
  double over(int rank, double change) const {
    return std::max(0.0, placement_.rank_tokens(rank) + change - target_);
  }
  double gain(int rank, double change) const { return over(rank, 0) - over(rank, change); }

  int cost_of(int rank, int expert) const { return was_held_[index(rank, expert)] ? 0 : 1; }

  void index_ranks(int expert) {
    ranks_of_[expert].clear();
    for (int rank = 0; rank < shape_.num_ranks; ++rank) {
      if (placement_.held(rank, expert) > 0) ranks_of_[expert].push_back(rank);
    }
  }

  bool is_better(double gained, int cost) const {
    return transfers_ + cost <= max_transfers_ && gained > best_.score * (cost + kFreeStepCost);
  }

  // A copy of an expert that an overfull rank holds, over a slot of a replicated expert.
  void find_overwrites() {
    std::vector<int> hot;
    std::vector<double> dilution(shape_.num_experts,
                                 0);  // excess that one more copy takes elsewhere
    for (int expert = 0; expert < shape_.num_experts; ++expert) {
      for (const int rank : ranks_of_[expert]) {
        dilution[expert] += gain(rank, dilution_change(rank, expert));
      }
      if (dilution[expert] > 0) hot.push_back(expert);
    }
    std::stable_sort(hot.begin(), hot.end(),
                     [&](int a, int b) { return dilution[a] > dilution[b]; });
    for (int slot = 0; slot < shape_.num_slots; ++slot) {
      const int old = placement_.expert(slot);
      if (placement_.replicas(old) < 2) continue;
      const int here = shape_.rank_of(slot);
      for (const int expert : hot) {
        if (!is_better(dilution[expert] + over(here, 0), 0)) break;  // nor are those after it
        if (placement_.held(here, expert) > 0) continue;
        const int cost = cost_of(here, expert);
        const double gained = overwrite_gain(slot, expert);
        if (!is_better(gained, cost) || !keeps_connection(slot, expert, -1)) continue;
        best_ = {Step::kOverwrite, gained / (cost + kFreeStepCost), cost, slot, expert, 0};
      }
    }
  }

  // What a further copy of the expert elsewhere changes on a rank that holds it.
  double dilution_change(int rank, int expert) const {
    const int replicas = placement_.replicas(expert);
    return -placement_.held(rank, expert) * placement_.tokens(expert) /
           (static_cast<double>(replicas) * (replicas + 1));
  }

  double overwrite_gain(int slot, int expert) const {
    const int old = placement_.expert(slot);
    const int here = shape_.rank_of(slot);
    const int replicas = placement_.replicas(old);
    const double grown = placement_.tokens(old) / (static_cast<double>(replicas) * (replicas - 1));
    double gained = 0;
    for (const int rank : ranks_of_[old]) {
      const int kept = placement_.held(rank, old) - (rank == here);
      double change = kept * grown;
      if (rank == here) {
        change +=
            placement_.tokens(expert) / (placement_.replicas(expert) + 1) - placement_.share(old);
      }
      if (placement_.held(rank, expert) > 0) change += dilution_change(rank, expert);
      gained += gain(rank, change);
    }
    for (const int rank : ranks_of_[expert]) {
      if (placement_.held(rank, old) == 0) gained += gain(rank, dilution_change(rank, expert));
    }
    return gained;
  }

  void find_exchanges() {
    for (int slot = 0; slot < shape_.num_slots; ++slot) {
      share_[slot] = placement_.share(placement_.expert(slot));
    }
    for (int a = 0; a < shape_.num_ranks; ++a) {
      if (over(a, 0) <= 0) continue;
      for (int b = 0; b < shape_.num_ranks; ++b) {
        if (placement_.rank_tokens(b) < target_) find_exchange(a, b);
      }
    }
  }

  // Of an expert of rank a, which is over the target, for a smaller one of rank b, which is under
  // it.
  void find_exchange(int a, int b) {
    const double excess = over(a, 0);
    const double room = target_ - placement_.rank_tokens(b);
    const int width = shape_.slots_per_rank();
    for (int slot = a * width; slot < (a + 1) * width; ++slot) {
      for (int other = b * width; other < (b + 1) * width; ++other) {
        const double moved = share_[slot] - share_[other];
        const double gained = std::min(moved, excess) - std::max(0.0, moved - room);
        if (!is_better(gained, 0)) continue;
        const int expert = placement_.expert(slot);
        const int theirs = placement_.expert(other);
        const int cost = cost_of(b, expert) + cost_of(a, theirs);
        if (!is_better(gained, cost) || placement_.held(b, expert) > 0 ||
            placement_.held(a, theirs) > 0 || !keeps_connection(slot, theirs, other)) {
          continue;
        }
        best_ = {Step::kExchange, gained / (cost + kFreeStepCost), cost, slot, 0, other};
      }
    }
  }

  // Whether the rank graph stays in as few parts as it was with `expert` in `slot` and, for an
  // exchange, what was there in `other` (-1: an overwrite).
  bool keeps_connection(int slot, int expert, int other) const {
    const int old = placement_.expert(slot);
    if (most_components_ == shape_.num_ranks) return true;
    if (other >= 0 && placement_.replicas(old) == 1 && placement_.replicas(expert) == 1)
      return true;
    std::vector<int> slots = placement_.slots();
    slots[slot] = expert;
    if (other >= 0) slots[other] = old;
    return count_components(shape_, slots) <= most_components_;
  }

  void apply() {
    transfers_ += best_.cost;
    const int old = placement_.expert(best_.slot);
    const int moved_in =
        best_.kind == Step::kOverwrite ? best_.expert : placement_.expert(best_.other);
    if (best_.kind == Step::kOverwrite) {
      placement_.overwrite(best_.slot, best_.expert);
    } else {
      placement_.swap(best_.slot, best_.other);
    }
    index_ranks(old);
    index_ranks(moved_in);
  }

  DraftPlacement placement_;
  const Shape shape_;
  const double target_;
  const int max_transfers_;
  std::vector<uint8_t> was_held_;           // [num_ranks, num_experts] in the previous placement
  std::vector<std::vector<int>> ranks_of_;  // [num_experts] ranks that hold it now
  std::vector<double> share_;               // [num_slots] tokens of the slot's replica
  int most_components_ = 0;
  int transfers_ = 0;
  Step best_;
};

}  // namespace

namespace {

// Bisects for the lowest target that the transfers reach.
DraftPlacement improve(const DraftPlacement& start, const IncrementalOptions& options,
                       bool keep_connected) {
  DraftPlacement best = start;
  double low = 1 + options.tolerance;
  double high = start.max_over_mean();
  double target = low;  // reached at once where the transfers allow it
  for (int i = 0; i < kBisections && high > low + kEnough; ++i) {
    ExcessSearch search(start, target * start.mean_tokens(), options.max_transfers, keep_connected);
    const bool reached = search.run();
    if (search.placement().max_over_mean() < best.max_over_mean()) best = search.placement();
    (reached ? high : low) = target;
    target = (low + high) / 2;
  }
  return best;
}

}  // namespace

std::vector<int> improve_placement(const Shape& shape, std::span<const int64_t> tokens,
                                   std::span<const int> previous,
                                   const IncrementalOptions& options) {
  const DraftPlacement start = DraftPlacement::of(shape, tokens, previous);
  const DraftPlacement free = improve(start, options, false);
  if (!options.keep_connected) return free.slots();
  const int components = count_components(shape, previous);
  const int lost = count_components(shape, free.slots()) - components;
  if (lost <= 0) return free.slots();
  const DraftPlacement connected = improve(start, options, true);
  const double price = kComponentPrice * lost;
  return connected.max_over_mean() <= free.max_over_mean() + price ? connected.slots()
                                                                   : free.slots();
}

int count_transfers(const Shape& shape, std::span<const int> previous, std::span<const int> next) {
  std::vector<bool> held(int64_t{shape.num_ranks} * shape.num_experts, false);
  for (int slot = 0; slot < shape.num_slots; ++slot) {
    held[int64_t{shape.rank_of(slot)} * shape.num_experts + previous[slot]] = true;
  }
  int transfers = 0;
  for (int slot = 0; slot < shape.num_slots; ++slot) {
    transfers += !held[int64_t{shape.rank_of(slot)} * shape.num_experts + next[slot]];
  }
  return transfers;
}

}  // namespace wideep::eplb
