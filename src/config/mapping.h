// Mapping: which part of the model each rank of the world holds.
//
// Ranks count tensor parallelism fastest, then context, then pipeline: rank = tp_rank + tp *
// (cp_rank
// + cp * pp_rank). The MoE layers split the same tp ranks again: moe_ep_rank = tp_rank % moe_ep,
// moe_tp_rank = tp_rank / moe_ep. So an EP group is a run of consecutive ranks and an MoE-TP group
// is strided by moe_ep. Example, tp 8 = moe_tp 2 x moe_ep 4: EP groups {0..3} {4..7}, MoE-TP groups
// {0,4} {1,5} {2,6} {3,7}.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "config/engine_config.h"

namespace wideep {

// Where a rank stands in each way of splitting.
struct Coordinates {
  int tp_rank = 0;
  int cp_rank = 0;
  int pp_rank = 0;
  int moe_tp_rank = 0;
  int moe_ep_rank = 0;

  bool operator==(const Coordinates&) const = default;
};

// A rule over the sizes that does not hold; `key` is the one to change.
struct SizeBreach {
  std::string key;
  std::string value;
  std::string rule;  // names both numbers
};

class Mapping {
 public:
  // Completes the MoE sizes: neither given: moe_tp = tp, moe_ep = 1; one given: tp over it.
  // kInvalidInput with a line for each of breaches().
  static Result<Mapping> create(const ParallelConfig& sizes);
  // The same, and the world must have as many ranks as were started.
  static Result<Mapping> create(const ParallelConfig& sizes, int world);
  static std::vector<SizeBreach> breaches(const ParallelConfig& sizes);

  int tp() const { return tp_; }
  int cp() const { return cp_; }
  int pp() const { return pp_; }
  int moe_tp() const { return moe_tp_; }
  int moe_ep() const { return moe_ep_; }
  int world() const { return tp_ * cp_ * pp_; }

  // O(1); ranks from 0, CHECKed against the world.
  Coordinates coordinates(int rank) const;
  int rank_of(int tp_rank, int cp_rank, int pp_rank) const;

  // The ranks, ascending, that differ from `rank` in that coordinate only; `rank` among them.
  std::vector<int> tp_group(int rank) const;
  std::vector<int> cp_group(int rank) const;
  std::vector<int> pp_group(int rank) const;
  std::vector<int> moe_tp_group(int rank) const;
  std::vector<int> moe_ep_group(int rank) const;

  // Decoder layers [begin, end) of a pipeline stage: pp_partition, or even with the first stages
  // one more. num_layers >= pp.
  struct Layers {
    int begin;
    int end;
  };
  Layers layers(int pp_rank, int num_layers) const;

 private:
  Mapping() = default;

  // Ranks begin + i * stride for i in [0, count).
  static std::vector<int> strided(int begin, int stride, int count);

  int tp_ = 1;
  int cp_ = 1;
  int pp_ = 1;
  int moe_tp_ = 1;
  int moe_ep_ = 1;
  std::vector<int> pp_partition_;
};

}  // namespace wideep
