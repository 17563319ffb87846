#include "eplb/moves.h"

#include <algorithm>

namespace wideep::eplb {
namespace {

// Colours the edges of a bipartite multigraph (senders, receivers) with as many colours as the
// largest degree: an edge takes a colour free at both ends, or the one free at the sender after the
// path of the two ends' colours from the receiver is flipped (Koenig 1916).
class Rounds {
 public:
  Rounds(int num_ranks, int num_rounds)
      : num_rounds_(num_rounds),
        sends_(int64_t{num_ranks} * num_rounds, -1),
        receives_(int64_t{num_ranks} * num_rounds, -1) {}

  // `move` is an index that identifies the edge.
  void add(int move, int sender, int receiver, std::vector<int>& senders,
           std::vector<int>& receivers) {
    senders_ = &senders;
    receivers_ = &receivers;
    const int a = free_round(sends_, sender);
    const int b = free_round(receives_, receiver);
    if (a != b) flip(receiver, a, b);
    sends_[at(sender, a)] = move;
    receives_[at(receiver, a)] = move;
  }

  int round_of(int move, int sender) const {
    int round = 0;
    while (sends_[at(sender, round)] != move) ++round;
    return round;
  }

 private:
  int64_t at(int rank, int round) const { return int64_t{rank} * num_rounds_ + round; }

  int free_round(const std::vector<int>& taken, int rank) const {
    int round = 0;
    while (taken[at(rank, round)] >= 0) ++round;
    CHECK(round < num_rounds_);
    return round;
  }

  // Exchanges rounds a and b along the path that starts at the receiver with its move of round a,
  // so that round a is free there. The path cannot end at the sender: that has no move in round a.
  void flip(int receiver, int a, int b) {
    std::vector<int> path;
    bool at_receiver = true;
    int rank = receiver;
    int round = a;
    while (true) {
      const int move = (at_receiver ? receives_ : sends_)[at(rank, round)];
      if (move < 0) break;
      path.push_back(move);
      rank = at_receiver ? (*senders_)[move] : (*receivers_)[move];
      at_receiver = !at_receiver;
      round = round == a ? b : a;
    }
    round = a;
    for (const int move : path) {
      sends_[at((*senders_)[move], round)] = -1;
      receives_[at((*receivers_)[move], round)] = -1;
      round = round == a ? b : a;
    }
    round = b;
    for (const int move : path) {
      sends_[at((*senders_)[move], round)] = move;
      receives_[at((*receivers_)[move], round)] = move;
      round = round == a ? b : a;
    }
  }

  const int num_rounds_;
  std::vector<int> sends_;     // [num_ranks, num_rounds] move, or -1
  std::vector<int> receives_;  // [num_ranks, num_rounds]
  std::vector<int>* senders_ = nullptr;
  std::vector<int>* receivers_ = nullptr;
};

// The slot of `previous` to copy from: 0 own rank, 1 own node, 2 elsewhere; then the idlest sender.
int choose_source(const Shape& shape, const std::vector<int>& holders, int rank, int ranks_per_node,
                  const std::vector<int>& num_sends) {
  const auto distance = [&](int slot) {
    const int other = shape.rank_of(slot);
    if (other == rank) return 0;
    return ranks_per_node == 0 || other / ranks_per_node == rank / ranks_per_node ? 1 : 2;
  };
  return *std::min_element(holders.begin(), holders.end(), [&](int a, int b) {
    if (distance(a) != distance(b)) return distance(a) < distance(b);
    return num_sends[shape.rank_of(a)] < num_sends[shape.rank_of(b)];
  });
}

}  // namespace

MovePlan plan_moves(const Shape& shape, std::span<const int> previous, std::span<const int> next,
                    int ranks_per_node) {
  std::vector<std::vector<int>> holders(shape.num_experts);
  for (int slot = 0; slot < shape.num_slots; ++slot) holders[previous[slot]].push_back(slot);
  MovePlan plan;
  std::vector<int> num_sends(shape.num_ranks, 0);
  std::vector<int> num_receives(shape.num_ranks, 0);
  std::vector<int> senders;    // [moves] rank that sends
  std::vector<int> receivers;  // [moves]
  for (int slot = 0; slot < shape.num_slots; ++slot) {
    if (previous[slot] == next[slot]) continue;
    CHECK(!holders[next[slot]].empty());
    const int rank = shape.rank_of(slot);
    const int source = choose_source(shape, holders[next[slot]], rank, ranks_per_node, num_sends);
    const int sender = shape.rank_of(source);
    plan.moves.push_back({slot, next[slot], source, -1});
    senders.push_back(sender);
    receivers.push_back(rank);
    if (sender == rank) continue;
    ++plan.num_transfers;
    plan.num_rounds = std::max({plan.num_rounds, ++num_sends[sender], ++num_receives[rank]});
  }
  Rounds rounds(shape.num_ranks, plan.num_rounds);
  const int num_moves = static_cast<int>(plan.moves.size());
  for (int i = 0; i < num_moves; ++i) {
    if (senders[i] != receivers[i]) rounds.add(i, senders[i], receivers[i], senders, receivers);
  }
  for (int i = 0; i < num_moves; ++i) {
    if (senders[i] != receivers[i]) plan.moves[i].round = rounds.round_of(i, senders[i]);
  }
  return plan;
}

}  // namespace wideep::eplb
