#include "eplb/split.h"

#include <algorithm>
#include <numeric>

namespace wideep::eplb {
namespace {

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

Splitter::Splitter(const Shape& shape, std::span<const int> slots) : shape_(shape) {
  CHECK_EQ(static_cast<int>(slots.size()), shape.num_slots);
  index_replicas(slots);
  forest_ = find_forest();
  rank_tokens_.resize(shape.num_ranks);
  replica_tokens_.resize(replicas_.size());
  surplus_.resize(static_cast<size_t>(shape_.num_ranks) + 1);
  cut_.resize(shape.num_ranks);
  rank_mark_.resize(shape.num_ranks);
  shared_mark_.resize(shared_experts_.size());
  level_.resize(shape.num_ranks);
  queue_.reserve(shape.num_ranks);
}

void Splitter::index_replicas(std::span<const int> slots) {
  // Slots ascend, so a second copy on a rank comes after the first.
  std::vector<int> last_rank(shape_.num_experts, -1);
  std::vector<int> copies(shape_.num_experts, 0);
  std::vector<bool> counts(shape_.num_slots);
  home_slot_.assign(shape_.num_experts, -1);
  for (int slot = 0; slot < shape_.num_slots; ++slot) {
    const int expert = slots[slot];
    CHECK(expert >= 0 && expert < shape_.num_experts);
    const int rank = shape_.rank_of(slot);
    counts[slot] = last_rank[expert] != rank;
    last_rank[expert] = rank;
    if (counts[slot] && copies[expert]++ == 0) home_slot_[expert] = slot;
  }
  std::vector<int> next(shape_.num_experts, -1);  // replica to fill of each shared expert
  shared_begin_.push_back(0);
  for (int expert = 0; expert < shape_.num_experts; ++expert) {
    CHECK(copies[expert] > 0);
    if (copies[expert] == 1) continue;
    home_slot_[expert] = -1;
    next[expert] = shared_begin_.back();
    replicas_.insert(replicas_.end(), copies[expert],
                     {-1, -1, static_cast<int>(shared_experts_.size())});
    shared_experts_.push_back(expert);
    shared_begin_.push_back(static_cast<int>(replicas_.size()));
  }
  rank_begin_.push_back(0);
  for (int slot = 0; slot < shape_.num_slots; ++slot) {
    const int expert = slots[slot];
    if (counts[slot] && next[expert] >= 0) {
      replicas_[next[expert]].slot = slot;
      replicas_[next[expert]].rank = shape_.rank_of(slot);
      rank_replicas_.push_back(next[expert]++);
    }
    if ((slot + 1) % shape_.slots_per_rank() == 0) {
      rank_begin_.push_back(static_cast<int>(rank_replicas_.size()));
    }
  }
}

SplitForest Splitter::find_forest() const {
  std::vector<int> ranks;
  ranks.reserve(replicas_.size());
  for (const Replica& replica : replicas_) ranks.push_back(replica.rank);
  return make_split_forest(shape_.num_ranks, shared_begin_, ranks);
}

int64_t Splitter::split(std::span<const int64_t> tokens, std::span<int64_t> tokens_of_slot) {
  CHECK_EQ(static_cast<int>(tokens_of_slot.size()), shape_.num_slots);
  best_max(tokens);
  std::fill(tokens_of_slot.begin(), tokens_of_slot.end(), 0);
  for (int expert = 0; expert < shape_.num_experts; ++expert) {
    if (home_slot_[expert] >= 0) tokens_of_slot[home_slot_[expert]] = tokens[expert];
  }
  for (size_t r = 0; r < replicas_.size(); ++r) {
    tokens_of_slot[replicas_[r].slot] = replica_tokens_[r];
  }
  return target_;
}

int64_t Splitter::best_max(std::span<const int64_t> tokens) {
  CHECK_EQ(static_cast<int>(tokens.size()), shape_.num_experts);
  start_even(tokens);
  weigh_parts();
  balance_along_forest();
  while (const int overfull = count_overfull()) {
    if (find_levels(overfull)) {
      push_wave();
    } else {
      raise_to_rest();
    }
  }
  return target_;
}

void Splitter::start_even(std::span<const int64_t> tokens) {
  std::fill(rank_tokens_.begin(), rank_tokens_.end(), 0);
  for (int expert = 0; expert < shape_.num_experts; ++expert) {
    if (home_slot_[expert] >= 0) {
      rank_tokens_[shape_.rank_of(home_slot_[expert])] += tokens[expert];
    }
  }
  // What no split takes from a rank is the first bound.
  const auto fullest = std::ranges::max_element(rank_tokens_);
  target_ = cut_tokens_ = *fullest;
  std::fill(cut_.begin(), cut_.end(), false);
  cut_[fullest - rank_tokens_.begin()] = true;
  for (size_t shared = 0; shared < shared_experts_.size(); ++shared) {
    const int begin = shared_begin_[shared];
    const int copies = shared_begin_[shared + 1] - begin;
    const int64_t share = tokens[shared_experts_[shared]] / copies;
    const int64_t rest = tokens[shared_experts_[shared]] % copies;
    for (int i = 0; i < copies; ++i) {
      replica_tokens_[begin + i] = share + (i < rest);
      rank_tokens_[replicas_[begin + i].rank] += replica_tokens_[begin + i];
    }
  }
}

// No split moves tokens between parts, so the mean of each is a bound. Within a part all ranks are
// to have the same, the first ones the rest.
void Splitter::weigh_parts() {
  for (int begin = 0, end = 0; begin < shape_.num_ranks; begin = end) {
    end = forest_.part_end[begin];
    int64_t tokens = 0;
    for (int i = begin; i < end; ++i) tokens += rank_tokens_[forest_.order[i]];
    const int64_t mean = tokens / (end - begin);
    const int64_t rest = tokens % (end - begin);
    surplus_[begin] = 0;
    for (int i = begin; i < end; ++i) {
      const int64_t own = mean + (i - begin < rest);
      surplus_[i + 1] = surplus_[i] + rank_tokens_[forest_.order[i]] - own;
    }
    const int64_t bound = mean + (rest > 0);
    if (bound <= target_) continue;
    target_ = bound;
    cut_tokens_ = tokens;
    std::fill(cut_.begin(), cut_.end(), false);
    for (int i = begin; i < end; ++i) cut_[forest_.order[i]] = true;
  }
}

// A replica that would have to give more than it has gives all; the replicas of its expert that
// were to take what is missing take less, the first ones first.
void Splitter::balance_along_forest() {
  for (size_t shared = 0; shared < shared_experts_.size(); ++shared) {
    const int begin = shared_begin_[shared];
    const int end = shared_begin_[shared + 1];
    const auto gives = [&](int replica) {
      return surplus_[forest_.give_end[replica]] - surplus_[forest_.give_begin[replica]];
    };
    int64_t missing = 0;
    for (int r = begin; r < end; ++r) {
      missing += std::max<int64_t>(0, gives(r) - replica_tokens_[r]);
    }
    for (int r = begin; r < end; ++r) {
      int64_t given = std::min(gives(r), replica_tokens_[r]);
      const int64_t less = std::min(missing, std::max<int64_t>(0, -given));
      given += less;
      missing -= less;
      replica_tokens_[r] -= given;
      rank_tokens_[replicas_[r].rank] -= given;
    }
  }
}

int Splitter::count_overfull() const {
  return static_cast<int>(
      std::ranges::count_if(rank_tokens_, [&](int64_t tokens) { return tokens > target_; }));
}

// Breadth-first search from the ranks with room, against the direction of tokens, until it has come
// to all overfull ranks. False: it does not come to one.
bool Splitter::find_levels(int overfull) {
  ++wave_;
  queue_.clear();
  const auto reach = [&](int rank, int level) {
    if (rank_mark_[rank] == wave_) return;
    rank_mark_[rank] = wave_;
    level_[rank] = level;
    queue_.push_back(rank);
    overfull -= rank_tokens_[rank] > target_;
  };
  for (int rank = 0; rank < shape_.num_ranks; ++rank) {
    if (rank_tokens_[rank] < target_) reach(rank, 0);
  }
  for (size_t head = 0; head < queue_.size() && overfull > 0; ++head) {
    const int rank = queue_[head];
    for (int i = rank_begin_[rank]; i < rank_begin_[rank + 1]; ++i) {
      const int shared = replicas_[rank_replicas_[i]].shared;
      if (shared_mark_[shared] == wave_) continue;
      shared_mark_[shared] = wave_;
      for (int r = shared_begin_[shared]; r < shared_begin_[shared + 1]; ++r) {
        if (replica_tokens_[r] > 0) reach(replicas_[r].rank, level_[rank] + 1);
      }
    }
  }
  return overfull == 0;
}

void Splitter::push_wave() {
  for (size_t i = queue_.size(); i-- > 0;) {
    if (rank_tokens_[queue_[i]] > target_) push_from(queue_[i]);
  }
}

// Hands over what a rank has too much: of each expert to the lowest rank that is a step nearer, as
// long as it has tokens of the expert; more than that rank has room for, if need be.
void Splitter::push_from(int rank) {
  for (int i = rank_begin_[rank]; i < rank_begin_[rank + 1]; ++i) {
    const int64_t excess = rank_tokens_[rank] - target_;
    if (excess == 0) return;
    const int from = rank_replicas_[i];
    if (replica_tokens_[from] == 0) continue;
    const int shared = replicas_[from].shared;
    for (int into = shared_begin_[shared]; into < shared_begin_[shared + 1]; ++into) {
      const int next = replicas_[into].rank;
      if (rank_mark_[next] != wave_ || level_[next] != level_[rank] - 1) continue;
      const int64_t amount = std::min(excess, replica_tokens_[from]);
      replica_tokens_[from] -= amount;
      replica_tokens_[into] += amount;
      rank_tokens_[rank] -= amount;
      rank_tokens_[next] += amount;
      break;
    }
  }
}

// The ranks that the search did not come to keep their tokens among themselves, so their mean is a
// bound; each of them is at the target or over it, and one is over it, so the bound is higher.
void Splitter::raise_to_rest() {
  cut_tokens_ = 0;
  int64_t rest = 0;
  for (int rank = 0; rank < shape_.num_ranks; ++rank) {
    cut_[rank] = rank_mark_[rank] != wave_;
    if (!cut_[rank]) continue;
    cut_tokens_ += rank_tokens_[rank];
    ++rest;
  }
  const int64_t bound = ceil_div(cut_tokens_, rest);
  CHECK(bound > target_);
  target_ = bound;
}

SplitCertificate Splitter::certificate() const {
  SplitCertificate certificate;
  certificate.max_tokens = target_;
  certificate.cut_tokens = cut_tokens_;
  for (int rank = 0; rank < shape_.num_ranks; ++rank) {
    if (cut_[rank]) certificate.cut_ranks.push_back(rank);
  }
  return certificate;
}

}  // namespace wideep::eplb
