// Which experts the tokens of a benchmark go to, and what plans for them are made from: recorded
// loads and routes, or skews that are made up. Every rank draws alone, and draws the same.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "eplb/batch_source.h"
#include "eplb/planner.h"
#include "eplb/types.h"

namespace wideep::moe {

struct BenchRoutingOptions {
  // "uniform"; "zipf" or "zipf:S": the i-th of the experts, in an order of each layer's own, has
  // i^-S of the first one's tokens (S 1 where not given); else a path that eplb::read_workload()
  // takes.
  std::string skew = "uniform";
  int num_experts = 0;
  int top_k = 0;
  int num_ranks = 0;
  std::vector<int> layers;  // decoder layers to route for, ascending
  // For each of them the recorded layer whose routing it gets; empty: recorded ones at even
  // distances.
  std::vector<int> skew_layers;
  uint64_t seed = 1;
};

class BenchRouting {
 public:
  // kInvalidInput where what was recorded does not fit the model.
  static Result<BenchRouting> create(BenchRoutingOptions options);

  const BenchRoutingOptions& options() const { return options_; }
  // Of the layers asked for.
  const eplb::Workload& workload() const { return workload_; }
  // [layers] the recorded layer of each; none where the skew is made up.
  const std::vector<int>& recorded_layers() const { return recorded_layers_; }

  // Experts [layers][tokens, top_k] of the rank's tokens in a batch: all different for a token, -1
  // where a recorded token has none. Recorded tokens (npy) keep their experts; what has only counts
  // gives every token experts as often as the counts say (eplb/distinct_sampler.h), those of the
  // batch's own iteration where iterations were recorded.
  using Batch = std::vector<std::vector<int32_t>>;
  Result<Batch> draw(int64_t batch, int rank, int tokens) const;

 private:
  explicit BenchRouting(BenchRoutingOptions options) : options_(std::move(options)) {}
  Status read_recorded();
  Result<std::vector<int>> choose_rows(const std::vector<int>& recorded) const;
  Result<Batch> draw_traced(int64_t batch, int rank, int tokens) const;

  BenchRoutingOptions options_;
  bool is_traced_ = false;
  eplb::Workload workload_;
  std::vector<int> rows_;  // [layers] of what was recorded
  std::vector<int> recorded_layers_;
};

// Experts [tokens, top_k] that load all ranks equally, where the experts are on them in order, and
// the experts of a rank equally, both to within one row: the routing that balancing is held
// against.
std::vector<int32_t> balanced_experts(const BenchRoutingOptions& options, int64_t batch, int rank,
                                      int tokens);

}  // namespace wideep::moe
