#include "eplb/balance.h"

#include <algorithm>
#include <utility>

namespace wideep::eplb {
namespace {

// An exchange must lower the maximum by more than rounding noise, or the search might not end.
constexpr double kProgress = 1 - 1e-9;

class SwapSearch {
 public:
  SwapSearch(DraftPlacement& placement, const BalanceOptions& options)
      : placement_(placement),
        target_(placement.mean_tokens() * (1 + options.tolerance)),
        items_(placement.shape().num_ranks) {
    for (int slot = 0; slot < placement.shape().num_slots; ++slot) {
      const int expert = placement.expert(slot);
      if (!options.fixed.empty() && options.fixed[expert]) continue;
      items_[placement.shape().rank_of(slot)].push_back({placement.share(expert), slot});
    }
    order_.resize(placement.shape().num_ranks);
  }

  void run() {
    while (true) {
      source_ = placement_.fullest_rank();
      if (placement_.rank_tokens(source_) <= target_) return;
      for (int rank = 0; rank < static_cast<int>(order_.size()); ++rank) {
        order_[rank] = {placement_.rank_tokens(rank), rank};
      }
      std::sort(order_.begin(), order_.end());
      best_ = {placement_.rank_tokens(source_) * kProgress, -1, {}, {}, 0};
      find([this](int partner) { try_singles(partner); });
      if (best_.partner < 0) find([this](int partner) { try_pairs(partner); });
      if (best_.partner < 0) return;
      apply();
    }
  }

 private:
  // A slot that may move and the tokens of its replica.
  struct Item {
    double tokens;
    int slot;
  };
  struct Exchange {
    double max;     // tokens of the fuller of the two ranks afterwards
    int partner;    // -1: none
    int mine[2];    // items of the source rank
    int theirs[2];  // items of the partner
    int num_items;
  };

  // Looks at partners from the lightest on, until none can beat the best or the target is met.
  template <typename Try>
  void find(Try try_partner) {
    const double mine = placement_.rank_tokens(source_);
    for (const auto& [tokens, rank] : order_) {
      if ((mine + tokens) / 2 >= best_.max) return;
      try_partner(rank);
      if (best_.max <= target_) return;
    }
  }

  // What is left of the fuller rank when `difference` tokens go over.
  double max_after(int partner, double difference) const {
    return std::max(placement_.rank_tokens(source_) - difference,
                    placement_.rank_tokens(partner) + difference);
  }

  bool may_exchange(int partner, const Item& mine, const Item& theirs) const {
    return placement_.held(partner, placement_.expert(mine.slot)) == 0 &&
           placement_.held(source_, placement_.expert(theirs.slot)) == 0;
  }

  void try_singles(int partner) {
    const std::vector<Item>& mine = items_[source_];
    const std::vector<Item>& theirs = items_[partner];
    for (int i = 0; i < static_cast<int>(mine.size()); ++i) {
      for (int j = 0; j < static_cast<int>(theirs.size()); ++j) {
        const double max = max_after(partner, mine[i].tokens - theirs[j].tokens);
        if (max >= best_.max || !may_exchange(partner, mine[i], theirs[j])) continue;
        best_ = {max, partner, {i, 0}, {j, 0}, 1};
      }
    }
  }

  void try_pairs(int partner) {
    const std::vector<Item>& mine = items_[source_];
    const int num_mine = static_cast<int>(mine.size());
    for (int i = 0; i < num_mine; ++i) {
      for (int k = i + 1; k < num_mine; ++k) try_pair(partner, i, k);
    }
  }

  void try_pair(int partner, int i, int k) {
    const std::vector<Item>& mine = items_[source_];
    const std::vector<Item>& theirs = items_[partner];
    const double given = mine[i].tokens + mine[k].tokens;
    const int num_theirs = static_cast<int>(theirs.size());
    for (int j = 0; j < num_theirs; ++j) {
      for (int l = j + 1; l < num_theirs; ++l) {
        const double max = max_after(partner, given - theirs[j].tokens - theirs[l].tokens);
        if (max >= best_.max || !may_exchange(partner, mine[i], theirs[j]) ||
            !may_exchange(partner, mine[k], theirs[l])) {
          continue;
        }
        best_ = {max, partner, {i, k}, {j, l}, 2};
      }
    }
  }

  void apply() {
    for (int n = 0; n < best_.num_items; ++n) {
      Item& mine = items_[source_][best_.mine[n]];
      Item& theirs = items_[best_.partner][best_.theirs[n]];
      placement_.swap(mine.slot, theirs.slot);
      std::swap(mine.tokens, theirs.tokens);
    }
  }

  DraftPlacement& placement_;
  const double target_;
  std::vector<std::vector<Item>> items_;       // [num_ranks] what may move
  std::vector<std::pair<double, int>> order_;  // ranks from the lightest on
  int source_ = 0;
  Exchange best_ = {};
};

}  // namespace

void balance(DraftPlacement& placement, const BalanceOptions& options) {
  SwapSearch(placement, options).run();
}

}  // namespace wideep::eplb
