// How ranks that share experts are balanced in one pass.
//
// Ranks and shared experts form a graph; a replica is an edge between its rank and its expert. In a
// spanning forest of it every replica divides the ranks of a part in two, and if all ranks of the
// part are to have the same, what is too much on the replica's side has no way but through it. So
// the tokens that each replica gives follow from sums over ranks alone; no path is searched.
#pragma once

#include <span>
#include <vector>

namespace wideep::eplb {

struct SplitForest {
  // [num_ranks] The ranks of each subtree are neighbours, and so are those of each part.
  std::vector<int> order;
  // [num_ranks] The positions in `order` of the part that a position belongs to.
  std::vector<int> part_begin;
  std::vector<int> part_end;
  // [num_replicas] A replica gives what the ranks at positions [give_begin, give_end) have too
  // much; where give_begin > give_end, it takes what those at [give_end, give_begin) have too much.
  // Equal: it is no edge of the forest.
  std::vector<int> give_begin;
  std::vector<int> give_end;
};

// Breadth first, so that trees are shallow. expert_begin: [num_shared + 1] into replica_ranks,
// which has the ranks of each shared expert, ascending. O(replicas + ranks).
SplitForest make_split_forest(int num_ranks, std::span<const int> expert_begin,
                              std::span<const int> replica_ranks);

}  // namespace wideep::eplb
