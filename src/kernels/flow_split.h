// How many of a batch's tokens each replica takes so that the fullest rank has as few as any split
// allows: the maximum flow of eplb/split.h, token for token, as one warp of a GPU works it out.
//
// What a rank has over the target is pushed in waves towards ranks below it, a step at a time;
// where no way is left, the ranks that cannot get rid of anything prove a higher target. The rules
// are those of eplb's Splitter, and so is the result. What suits them to a GPU: a lane has one or a
// few ranks, all ranks of a distance push at once, and the ranks that one can give to are bits of a
// few words, so that the distances take an AND and a ballot a step.
//
// The code runs on lanes that take the same steps: the 32 of a warp, or one on the host, which is
// how tests hold it against eplb. Lanes is a class with
//
//   static constexpr int kCount    lanes
//   int index()                    of this lane
//   uint32_t ballot(bool)          a bit of each lane
//   T shuffle(T value, int lane)   the value of another lane
//   void sync()                    what lanes wrote before is seen by all lanes after
//
// Tokens of a batch, over all experts, are fewer than 2^31.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/host_device.h"

// Before a loop: how often a GPU's compiler repeats its body. Code that runs once is waited for, so
// that less of it is faster.
#ifdef __CUDA_ARCH__
#define WIDEEP_UNROLL(count) _Pragma(WIDEEP_PRAGMA_TEXT(unroll count))
#define WIDEEP_PRAGMA_TEXT(text) #text
#else
#define WIDEEP_UNROLL(count)
#endif

namespace wideep::kernels {

inline constexpr int kRanksOfWord = 32;
inline constexpr int kMaxSplitWords = 3;
inline constexpr int kMaxSplitRanks = kMaxSplitWords * kRanksOfWord;

WIDEEP_HOST_DEVICE inline int words_of_ranks(int num_ranks) {
  return (num_ranks + kRanksOfWord - 1) / kRanksOfWord;
}

WIDEEP_HOST_DEVICE inline int count_bits(uint32_t word) {
#ifdef __CUDA_ARCH__
  return __popc(word);
#else
  return __builtin_popcount(word);
#endif
}
// Of a word that has one.
WIDEEP_HOST_DEVICE inline int lowest_bit(uint32_t word) {
#ifdef __CUDA_ARCH__
  return __ffs(static_cast<int>(word)) - 1;
#else
  return __builtin_ctz(word);
#endif
}

// Up to 32 * kWords ranks.
template <int kWords>
struct RankSet {
  uint32_t words[kWords] = {};

  WIDEEP_HOST_DEVICE static RankSet load(const int32_t* from) {
    RankSet set;
    for (int w = 0; w < kWords; ++w) set.words[w] = static_cast<uint32_t>(from[w]);
    return set;
  }
  WIDEEP_HOST_DEVICE bool any() const {
    uint32_t all = 0;
    for (int w = 0; w < kWords; ++w) all |= words[w];
    return all != 0;
  }
  WIDEEP_HOST_DEVICE bool has(int rank) const {
    bool result = false;
    for (int w = 0; w < kWords; ++w) {
      if (rank / kRanksOfWord == w) result = (words[w] >> (rank % kRanksOfWord) & 1U) != 0;
    }
    return result;
  }
  WIDEEP_HOST_DEVICE void add(const RankSet& other) {
    for (int w = 0; w < kWords; ++w) words[w] |= other.words[w];
  }
  WIDEEP_HOST_DEVICE void remove(const RankSet& other) {
    for (int w = 0; w < kWords; ++w) words[w] &= ~other.words[w];
  }
  WIDEEP_HOST_DEVICE RankSet with(const RankSet& other) const {
    RankSet both;
    for (int w = 0; w < kWords; ++w) both.words[w] = words[w] & other.words[w];
    return both;
  }
  // Of a set that has one.
  WIDEEP_HOST_DEVICE int lowest() const {
    int rank = 0;
    for (int w = kWords - 1; w >= 0; --w) {
      if (words[w] != 0) rank = w * kRanksOfWord + lowest_bit(words[w]);
    }
    return rank;
  }
  WIDEEP_HOST_DEVICE int size() const {
    int count = 0;
    for (int w = 0; w < kWords; ++w) count += count_bits(words[w]);
    return count;
  }
};

// The replicas of a placement. Each has a place; those of an expert are neighbours. A replica is
// shared if another rank has the expert as well; a second copy on a rank does not count.
struct SplitGraph {
  int num_ranks = 0;
  int slots_per_rank = 0;
  const int32_t* start = nullptr;         // [num_experts + 1] places of each expert
  const int32_t* place_rank = nullptr;    // [num_slots]
  const int32_t* place_expert = nullptr;  // [num_slots]
  const int32_t* place_ranks = nullptr;   // [num_slots, words_of_ranks] that share the expert
  // [num_ranks, slots_per_rank] Places of a rank, the shared ones first, else in order of slots.
  const int32_t* rank_places = nullptr;
  const int32_t* rank_shared = nullptr;  // [num_ranks] how many of them are shared
};

// Of one batch; the caller fills it.
struct SplitState {
  int32_t* rank_tokens = nullptr;   // [num_ranks] of all experts
  int32_t* place_tokens = nullptr;  // [num_slots]
  int32_t* bounds = nullptr;        // [num_ranks] in any order; the fullest rank has each or more
};

// Other lanes may add to the same.
WIDEEP_HOST_DEVICE inline void add_tokens(int32_t* to, int tokens) {
#ifdef __CUDA_ARCH__
  atomicAdd(to, tokens);
#else
  std::atomic_ref(*to).fetch_add(tokens, std::memory_order_relaxed);
#endif
}

template <int kWords, typename Lanes>
class FlowSplit {
 public:
  using Set = RankSet<kWords>;

  WIDEEP_HOST_DEVICE FlowSplit(const SplitGraph& graph, const SplitState& state, Lanes& lanes)
      : graph_(graph), state_(state), lanes_(lanes) {}

  // By all lanes, which see what others wrote to the state. Returns the tokens of the fullest rank.
  WIDEEP_HOST_DEVICE int run() {
    raise_to_bounds();
    while (true) {
      const Set overfull =
          ranks_where([&](int, int rank) { return state_.rank_tokens[rank] > target_; });
      if (!overfull.any()) return target_;
      if (find_levels(overfull)) {
        push_wave();
      } else {
        raise_to_rest();
      }
    }
  }

 private:
  // Ranks that belong to a lane: rank % kCount is its index.
  static constexpr int kOwnRanks = kWords * kRanksOfWord / Lanes::kCount;

  WIDEEP_HOST_DEVICE int own_rank(int i) const { return i * Lanes::kCount + lanes_.index(); }

  // The ranks of which is(i, rank), for all lanes; a lane is asked for its i-th own rank.
  template <typename Is>
  WIDEEP_HOST_DEVICE Set ranks_where(const Is& is) {
    Set result;
    for (int i = 0; i < kOwnRanks; ++i) {
      const int rank = own_rank(i);
      const uint32_t bits = lanes_.ballot(rank < graph_.num_ranks && is(i, rank));
      const int first = i * Lanes::kCount;
      result.words[first / kRanksOfWord] |= bits << (first % kRanksOfWord);
    }
    return result;
  }

  WIDEEP_HOST_DEVICE void raise_to_bounds() {
    for (int rank = lanes_.index(); rank < graph_.num_ranks; rank += Lanes::kCount) {
      target_ = state_.bounds[rank] > target_ ? state_.bounds[rank] : target_;
    }
    for (int distance = Lanes::kCount / 2; distance > 0; distance /= 2) {
      const int other = lanes_.shuffle(target_, lanes_.index() ^ distance);
      target_ = other > target_ ? other : target_;
    }
  }

  // The ranks without a level keep their tokens among themselves: see eplb/split.cc.
  WIDEEP_HOST_DEVICE void raise_to_rest() {
    const Set rest = ranks_where([&](int i, int) { return level_[i] < 0; });
    int tokens = 0;
    for (int i = 0; i < kOwnRanks; ++i) {
      tokens += rest.has(own_rank(i)) ? state_.rank_tokens[own_rank(i)] : 0;
    }
    for (int distance = Lanes::kCount / 2; distance > 0; distance /= 2) {
      tokens += lanes_.shuffle(tokens, lanes_.index() ^ distance);
    }
    const int ranks = rest.size();
    target_ = tokens / ranks + (tokens % ranks != 0 ? 1 : 0);
  }

  // The ranks that a rank can give tokens to.
  WIDEEP_HOST_DEVICE Set find_takers(int rank) const {
    Set takers;
    const int32_t* const places = graph_.rank_places + rank * graph_.slots_per_rank;
    const int end = graph_.rank_shared[rank];
    WIDEEP_UNROLL(2)
    for (int k = 0; k < end; ++k) {
      const int place = places[k];
      const Set ranks = Set::load(graph_.place_ranks + place * kWords);
      if (state_.place_tokens[place] > 0) takers.add(ranks);
    }
    return takers;
  }

  // How many steps ranks are from one with room, until all overfull ones are found. False: one has
  // no way there.
  WIDEEP_HOST_DEVICE bool find_levels(Set missing) {
    Set takers[kOwnRanks];
    Set last = ranks_where([&](int i, int rank) {
      takers[i] = find_takers(rank);
      level_[i] = state_.rank_tokens[rank] < target_ ? 0 : -1;
      return level_[i] == 0;
    });
    top_ = 0;
    while (missing.any() && last.any()) {
      ++top_;
      last = ranks_where([&](int i, int) {
        if (level_[i] >= 0 || !takers[i].with(last).any()) return false;
        level_[i] = top_;
        return true;
      });
      missing.remove(last);
    }
    return !missing.any();
  }

  WIDEEP_HOST_DEVICE void push_wave() {
    for (; top_ > 0; --top_) {
      const Set nearer = ranks_where([&](int i, int) { return level_[i] == top_ - 1; });
      for (int i = 0; i < kOwnRanks; ++i) {
        if (own_rank(i) < graph_.num_ranks && level_[i] == top_) push_from(own_rank(i), nearer);
      }
      lanes_.sync();
    }
  }

  // By one lane: hands over what a rank has too much, of each expert to the lowest of the nearer
  // ranks.
  WIDEEP_HOST_DEVICE void push_from(int rank, const Set& nearer) {
    const int32_t* const places = graph_.rank_places + rank * graph_.slots_per_rank;
    const int end = graph_.rank_shared[rank];
    int excess = state_.rank_tokens[rank] - target_;
    if (excess <= 0) return;
    WIDEEP_UNROLL(1)
    for (int k = 0; k < end && excess > 0; ++k) {
      const int place = places[k];
      const int tokens = state_.place_tokens[place];
      const Set takers = Set::load(graph_.place_ranks + place * kWords).with(nearer);
      if (tokens == 0 || !takers.any()) continue;
      const int taker = takers.lowest();
      const int amount = tokens < excess ? tokens : excess;
      int into = graph_.start[graph_.place_expert[place]];
      while (graph_.place_rank[into] != taker) ++into;
      state_.place_tokens[place] = tokens - amount;
      add_tokens(state_.place_tokens + into, amount);
      add_tokens(state_.rank_tokens + taker, amount);
      excess -= amount;
    }
    state_.rank_tokens[rank] = target_ + excess;
  }

  const SplitGraph graph_;
  const SplitState state_;
  Lanes& lanes_;
  int target_ = 0;
  int top_ = 0;                // the highest level
  int level_[kOwnRanks] = {};  // of own ranks; -1: not found
};

}  // namespace wideep::kernels
