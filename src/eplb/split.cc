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
  find_components();
  rank_tokens_.resize(shape.num_ranks);
  replica_tokens_.resize(replicas_.size());
  component_tokens_.resize(component_size_.size());
  cut_.resize(shape.num_ranks);
  rank_mark_.resize(shape.num_ranks);
  shared_mark_.resize(shared_experts_.size());
  queue_.resize(shape.num_ranks);
  from_.resize(shape.num_ranks);
  into_.resize(shape.num_ranks);
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

void Splitter::find_components() {
  component_.assign(shape_.num_ranks, -1);
  std::vector<int> open;
  const auto enter = [&](int rank) {
    if (component_[rank] >= 0) return;
    component_[rank] = static_cast<int>(component_size_.size()) - 1;
    ++component_size_.back();
    open.push_back(rank);
  };
  for (int start = 0; start < shape_.num_ranks; ++start) {
    if (component_[start] >= 0) continue;
    component_size_.push_back(0);
    enter(start);
    while (!open.empty()) {
      const int rank = open.back();
      open.pop_back();
      for (int i = rank_begin_[rank]; i < rank_begin_[rank + 1]; ++i) {
        const int shared = replicas_[rank_replicas_[i]].shared;
        for (int r = shared_begin_[shared]; r < shared_begin_[shared + 1]; ++r) {
          enter(replicas_[r].rank);
        }
      }
    }
  }
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
  raise_to_components();
  for (int rank = 0; rank < shape_.num_ranks; ++rank) {
    while (rank_tokens_[rank] > target_) {
      if (!push_from(rank)) raise_to_reached();
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

// No split moves tokens between components: the fullest of them, on average, is the first target.
void Splitter::raise_to_components() {
  std::fill(component_tokens_.begin(), component_tokens_.end(), 0);
  for (int rank = 0; rank < shape_.num_ranks; ++rank) {
    component_tokens_[component_[rank]] += rank_tokens_[rank];
  }
  target_ = 0;
  int fullest = 0;
  for (size_t c = 0; c < component_tokens_.size(); ++c) {
    const int64_t bound = ceil_div(component_tokens_[c], component_size_[c]);
    if (bound <= target_) continue;
    target_ = bound;
    fullest = static_cast<int>(c);
  }
  for (int rank = 0; rank < shape_.num_ranks; ++rank) cut_[rank] = component_[rank] == fullest;
  cut_tokens_ = component_tokens_[fullest];
}

// Breadth-first search from an overfull rank along experts that it (or a rank reached so far) can
// hand over; pushes as much as fits along the first path to a rank below the target. False: there
// is none.
bool Splitter::push_from(int source) {
  ++search_;
  int head = 0;
  int tail = 0;
  rank_mark_[source] = search_;
  queue_[tail++] = source;
  while (head < tail) {
    const int rank = queue_[head++];
    for (int i = rank_begin_[rank]; i < rank_begin_[rank + 1]; ++i) {
      const int from = rank_replicas_[i];
      const int shared = replicas_[from].shared;
      if (replica_tokens_[from] == 0 || shared_mark_[shared] == search_) continue;
      shared_mark_[shared] = search_;
      for (int into = shared_begin_[shared]; into < shared_begin_[shared + 1]; ++into) {
        const int next = replicas_[into].rank;
        if (rank_mark_[next] == search_) continue;
        rank_mark_[next] = search_;
        from_[next] = from;
        into_[next] = into;
        if (rank_tokens_[next] < target_) {
          push_along(source, next);
          return true;
        }
        queue_[tail++] = next;
      }
    }
  }
  return false;
}

void Splitter::push_along(int source, int sink) {
  int64_t amount = std::min(rank_tokens_[source] - target_, target_ - rank_tokens_[sink]);
  for (int rank = sink; rank != source; rank = replicas_[from_[rank]].rank) {
    amount = std::min(amount, replica_tokens_[from_[rank]]);
  }
  for (int rank = sink; rank != source; rank = replicas_[from_[rank]].rank) {
    replica_tokens_[from_[rank]] -= amount;
    replica_tokens_[into_[rank]] += amount;
  }
  rank_tokens_[source] -= amount;
  rank_tokens_[sink] += amount;
}

// The ranks that the last search reached keep all their tokens among themselves, so their mean is a
// bound; each of them is at the target or over it, and the source is over it, so the bound is
// higher.
void Splitter::raise_to_reached() {
  cut_tokens_ = 0;
  int64_t reached = 0;
  for (int rank = 0; rank < shape_.num_ranks; ++rank) {
    cut_[rank] = rank_mark_[rank] == search_;
    if (!cut_[rank]) continue;
    cut_tokens_ += rank_tokens_[rank];
    ++reached;
  }
  const int64_t bound = ceil_div(cut_tokens_, reached);
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
