// How many of a batch's tokens each replica takes so that the fullest rank has as few as any split
// allows: the maximum flow of eplb/split.h, token for token, as one warp of a GPU works it out.
//
// The tokens of an expert begin evenly spread over its replicas. What a rank has over the target is
// pushed along shortest paths of shared experts to ranks below it; where no path is left, the ranks
// that were reached prove a higher target. The order of all steps is that of eplb's Splitter, and
// so is the result. What makes it quick on a GPU: a rank's replicas are looked at side by side, the
// ranks that have an expert are bits of a few words, and a search goes on after a push as long as
// the push has not cut one of its paths, since a new search would come to the same point.
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

#include <cstdint>

#include "base/host_device.h"

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
  WIDEEP_HOST_DEVICE void add(int rank) {
    for (int w = 0; w < kWords; ++w) {
      if (rank / kRanksOfWord == w) words[w] |= 1U << (rank % kRanksOfWord);
    }
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
  // Those below `end`.
  WIDEEP_HOST_DEVICE RankSet first(int end) const {
    RankSet result;
    for (int w = 0; w < kWords; ++w) {
      const int bits = end - w * kRanksOfWord;
      const uint32_t mask = bits >= kRanksOfWord ? ~0U : bits <= 0 ? 0U : (1U << bits) - 1;
      result.words[w] = words[w] & mask;
    }
    return result;
  }
  WIDEEP_HOST_DEVICE int size() const {
    int count = 0;
    for (int w = 0; w < kWords; ++w) count += count_bits(words[w]);
    return count;
  }
};

// The replicas that can take tokens from each other: those of experts that several ranks have,
// called entries, in the order of ranks, and slots within a rank. Copies of an expert on one rank
// count once.
struct SplitGraph {
  int num_ranks = 0;
  const int32_t* entry_begin = nullptr;      // [num_ranks + 1] entries of each rank
  const int32_t* entry_rank = nullptr;       // [entries]
  const int32_t* entry_shared = nullptr;     // [entries] which shared expert
  const int32_t* entry_ranks = nullptr;      // [entries, words_of_ranks] that have this expert
  const int32_t* shared_begin = nullptr;     // [shared experts + 1] into shared_entries
  const int32_t* shared_entries = nullptr;   // [entries] of each shared expert, ranks ascending
  const int32_t* component = nullptr;        // [num_ranks] of the graph; from 0 to num_ranks
  const int32_t* component_ranks = nullptr;  // [num_ranks] ranks of each component, 0 beyond
};

// Of one batch. The caller fills the first two with the even split.
struct SplitState {
  int32_t* rank_tokens = nullptr;   // [num_ranks] of all experts
  int32_t* entry_tokens = nullptr;  // [entries]
  int32_t* queue = nullptr;         // [num_ranks]
  int32_t* from = nullptr;          // [num_ranks] entry that tokens leave to reach a rank
};

template <int kWords, typename Lanes>
class FlowSplit {
 public:
  using Set = RankSet<kWords>;

  WIDEEP_HOST_DEVICE FlowSplit(const SplitGraph& graph, const SplitState& state, Lanes& lanes)
      : graph_(graph), state_(state), lanes_(lanes) {}

  // By all lanes, which see what others wrote to the state. Returns the tokens of the fullest rank.
  WIDEEP_HOST_DEVICE int run() {
    raise_to_components();
    for (int rank = 0; rank < graph_.num_ranks; ++rank) {
      while (state_.rank_tokens[rank] > target_) {
        if (!relieve(rank)) raise_to_reached();
      }
    }
    return target_;
  }

 private:
  WIDEEP_HOST_DEVICE static int ceil_div(int a, int b) {
    return static_cast<int>((static_cast<uint32_t>(a) + static_cast<uint32_t>(b) - 1) /
                            static_cast<uint32_t>(b));
  }

  WIDEEP_HOST_DEVICE int sum(int value) {
    for (int distance = Lanes::kCount / 2; distance > 0; distance /= 2) {
      value += lanes_.shuffle(value, lanes_.index() ^ distance);
    }
    return value;
  }

  // The ranks of which is(rank), for all lanes.
  template <typename Is>
  WIDEEP_HOST_DEVICE Set ranks_where(const Is& is) {
    Set result;
    for (int first = 0; first < graph_.num_ranks; first += Lanes::kCount) {
      const int rank = first + lanes_.index();
      const uint32_t bits = lanes_.ballot(rank < graph_.num_ranks && is(rank));
      for (int w = 0; w < kWords; ++w) {
        if (first / kRanksOfWord == w) result.words[w] |= bits << (first % kRanksOfWord);
      }
    }
    return result;
  }

  WIDEEP_HOST_DEVICE void find_below() {
    below_ = ranks_where([&](int rank) { return state_.rank_tokens[rank] < target_; });
  }

  // No split moves tokens between components: the fullest of them, on average, is the first target.
  WIDEEP_HOST_DEVICE void raise_to_components() {
    int largest = 0;
    for (int c = lanes_.index(); c < graph_.num_ranks; c += Lanes::kCount) {
      const int ranks = graph_.component_ranks[c];
      if (ranks == 0) continue;
      int tokens = 0;
      for (int rank = 0; rank < graph_.num_ranks; ++rank) {
        tokens += graph_.component[rank] == c ? state_.rank_tokens[rank] : 0;
      }
      const int bound = ceil_div(tokens, ranks);
      largest = bound > largest ? bound : largest;
    }
    for (int distance = Lanes::kCount / 2; distance > 0; distance /= 2) {
      const int other = lanes_.shuffle(largest, lanes_.index() ^ distance);
      largest = other > largest ? other : largest;
    }
    target_ = largest;
    find_below();
  }

  // The ranks that the last search reached keep their tokens among themselves: see eplb/split.cc.
  WIDEEP_HOST_DEVICE void raise_to_reached() {
    int tokens = 0;
    for (int rank = lanes_.index(); rank < graph_.num_ranks; rank += Lanes::kCount) {
      tokens += reached_.has(rank) ? state_.rank_tokens[rank] : 0;
    }
    target_ = ceil_div(sum(tokens), reached_.size());
    find_below();
  }

  // Pushes tokens off `source` until it is at the target; false: what it reaches has no room left.
  WIDEEP_HOST_DEVICE bool relieve(int source) {
    int excess = state_.rank_tokens[source] - target_;
    while (excess > 0) {
      reached_ = {};
      reached_.add(source);
      tail_ = 0;
      Set first;
      first.add(source);
      enqueue(first, -1);
      bool was_cut = false;
      for (int head = 0; head < tail_ && excess > 0 && !was_cut; ++head) {
        lanes_.sync();
        was_cut = search_from(state_.queue[head], source, excess);
      }
      if (excess > 0 && !was_cut) return false;
    }
    return true;
  }

  // Reaches further along the entries of a rank, in their order, and pushes where that comes to a
  // rank with room. True: a push has taken the last token of a path, so the search is void.
  WIDEEP_HOST_DEVICE bool search_from(int rank, int source, int& excess) {
    const int end = graph_.entry_begin[rank + 1];
    for (int first = graph_.entry_begin[rank]; first < end; first += Lanes::kCount) {
      const int entry = first + lanes_.index();
      const bool gives = entry < end && state_.entry_tokens[entry] > 0;
      Set ranks = gives ? Set::load(graph_.entry_ranks + entry * kWords) : Set{};
      while (true) {
        ranks.remove(reached_);
        const uint32_t givers = lanes_.ballot(ranks.any());
        if (givers == 0) break;
        const int giver = lowest_bit(givers);
        Set next;
        for (int w = 0; w < kWords; ++w) next.words[w] = lanes_.shuffle(ranks.words[w], giver);
        const Set sinks = next.with(below_);
        if (!sinks.any()) {
          enqueue(next, first + giver);
          continue;
        }
        const int sink = sinks.lowest();
        enqueue(next.first(sink + 1), first + giver);
        if (push(source, sink, excess)) return true;
        if (excess == 0) return false;
      }
    }
    return false;
  }

  // Ranks that were reached through an entry (-1: the source), ascending. Others see it after a
  // sync().
  WIDEEP_HOST_DEVICE void enqueue(const Set& ranks, int entry) {
    for (int rank = lanes_.index(); rank < graph_.num_ranks; rank += Lanes::kCount) {
      if (!ranks.has(rank)) continue;
      state_.queue[tail_ + ranks.first(rank).size()] = rank;
      state_.from[rank] = entry;
    }
    tail_ += ranks.size();
    reached_.add(ranks);
  }

  // As many as fit along the path of the search. True: an entry on it has no tokens left.
  WIDEEP_HOST_DEVICE bool push(int source, int sink, int& excess) {
    lanes_.sync();
    int least = excess;  // that an entry of the path has, or more than is wanted
    for (int rank = sink; rank != source;) {
      const int from = state_.from[rank];
      least = state_.entry_tokens[from] < least ? state_.entry_tokens[from] : least;
      rank = graph_.entry_rank[from];
    }
    const int room = target_ - state_.rank_tokens[sink];
    const int amount = least < room ? least : room;
    bool is_cut = false;
    for (int rank = sink; rank != source;) {
      const int from = state_.from[rank];
      is_cut = is_cut || state_.entry_tokens[from] == amount;
      rank = graph_.entry_rank[from];
    }
    lanes_.sync();  // all lanes have read
    if (lanes_.index() == 0) move(source, sink, amount);
    lanes_.sync();
    excess -= amount;
    if (amount == room) {
      Set full;
      full.add(sink);
      below_.remove(full);
    }
    return is_cut;
  }

  WIDEEP_HOST_DEVICE void move(int source, int sink, int amount) {
    for (int rank = sink; rank != source;) {
      const int from = state_.from[rank];
      const Set ranks = Set::load(graph_.entry_ranks + from * kWords);
      const int into = graph_.shared_entries[graph_.shared_begin[graph_.entry_shared[from]] +
                                             ranks.first(rank).size()];
      state_.entry_tokens[from] -= amount;
      state_.entry_tokens[into] += amount;
      rank = graph_.entry_rank[from];
    }
    state_.rank_tokens[source] -= amount;
    state_.rank_tokens[sink] += amount;
  }

  const SplitGraph graph_;
  const SplitState state_;
  Lanes& lanes_;
  int target_ = 0;
  int tail_ = 0;  // of the queue
  Set below_;     // ranks with room
  Set reached_;   // by the search
};

}  // namespace wideep::kernels
