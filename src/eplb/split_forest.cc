#include "eplb/split_forest.h"

#include <algorithm>

namespace wideep::eplb {
namespace {

// Nodes are the ranks, then the experts; edges are the replicas.
class Builder {
 public:
  Builder(int num_ranks, std::span<const int> expert_begin, std::span<const int> replica_ranks)
      : num_ranks_(num_ranks),
        expert_begin_(expert_begin),
        replica_ranks_(replica_ranks),
        nodes_(static_cast<size_t>(num_ranks) + expert_begin.size() - 1) {
    list_replicas();
    sequence_.reserve(nodes_.size());
    for (int rank = 0; rank < num_ranks; ++rank) {
      size_t next = sequence_.size();
      reach(rank, -1, -1);
      for (; next < sequence_.size(); ++next) reach_from(sequence_[next]);
    }
  }

  SplitForest lay_out() {
    for (size_t i = sequence_.size(); i-- > 0;) {
      const Node& node = nodes_[sequence_[i]];
      if (node.parent >= 0) nodes_[node.parent].width += node.width;
    }
    const auto ranks = static_cast<size_t>(num_ranks_);
    const size_t replicas = replica_ranks_.size();
    SplitForest forest{std::vector<int>(ranks), std::vector<int>(ranks), std::vector<int>(ranks),
                       std::vector<int>(replicas), std::vector<int>(replicas)};
    int roots_end = 0;
    for (const int id : sequence_) {
      Node& node = nodes_[id];
      int& next = node.parent < 0 ? roots_end : nodes_[node.parent].next;
      const int begin = next;
      const int end = begin + node.width;
      next = end;
      node.next = is_rank(id) ? begin + 1 : begin;
      if (is_rank(id)) forest.order[begin] = id;
      if (node.parent < 0) {
        std::fill_n(forest.part_begin.begin() + begin, node.width, begin);
        std::fill_n(forest.part_end.begin() + begin, node.width, end);
      } else {
        forest.give_begin[node.replica] = is_rank(id) ? begin : end;
        forest.give_end[node.replica] = is_rank(id) ? end : begin;
      }
    }
    return forest;
  }

 private:
  struct Node {
    bool is_reached = false;
    int parent = -1;
    int replica = -1;  // to the parent
    int width = 0;     // ranks of the subtree
    int next = 0;      // position of the next child's ranks
  };

  bool is_rank(int id) const { return id < num_ranks_; }

  void list_replicas() {
    replica_experts_.resize(replica_ranks_.size());
    rank_begin_.resize(static_cast<size_t>(num_ranks_) + 1);
    rank_replicas_.resize(replica_ranks_.size());
    for (size_t e = 0; e + 1 < expert_begin_.size(); ++e) {
      std::fill(replica_experts_.begin() + expert_begin_[e],
                replica_experts_.begin() + expert_begin_[e + 1], static_cast<int>(e));
    }
    for (const int rank : replica_ranks_) ++rank_begin_[rank + 1];
    for (int rank = 0; rank < num_ranks_; ++rank) rank_begin_[rank + 1] += rank_begin_[rank];
    std::vector<int> next(rank_begin_.begin(), rank_begin_.end() - 1);
    for (size_t i = 0; i < replica_ranks_.size(); ++i) {
      rank_replicas_[next[replica_ranks_[i]]++] = static_cast<int>(i);
    }
  }

  void reach(int id, int parent, int replica) {
    Node& node = nodes_[id];
    if (node.is_reached) return;
    node = {true, parent, replica, is_rank(id) ? 1 : 0, 0};
    sequence_.push_back(id);
  }

  void reach_from(int id) {
    if (is_rank(id)) {
      for (int i = rank_begin_[id]; i < rank_begin_[id + 1]; ++i) {
        const int replica = rank_replicas_[i];
        reach(num_ranks_ + replica_experts_[replica], id, replica);
      }
    } else {
      const int expert = id - num_ranks_;
      for (int i = expert_begin_[expert]; i < expert_begin_[expert + 1]; ++i) {
        reach(replica_ranks_[i], id, i);
      }
    }
  }

  const int num_ranks_;
  const std::span<const int> expert_begin_;
  const std::span<const int> replica_ranks_;
  std::vector<int> replica_experts_;
  std::vector<int> rank_begin_;
  std::vector<int> rank_replicas_;  // of each rank, ascending
  std::vector<Node> nodes_;
  std::vector<int> sequence_;  // nodes, parents before children
};

}  // namespace

SplitForest make_split_forest(int num_ranks, std::span<const int> expert_begin,
                              std::span<const int> replica_ranks) {
  return Builder(num_ranks, expert_begin, replica_ranks).lay_out();
}

}  // namespace wideep::eplb
