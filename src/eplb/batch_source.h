// Batches for replay: which experts the tokens of each source rank go to, iteration by iteration.
// A batch is a pure function of (seed, iteration, layer), drawn when it is asked for and held
// nowhere: memory does not grow with iterations, and threads may take layers in any order.
//
// What stands behind a source, and what a batch of it is:
//   a load        every routed (token, k) draws an expert independently, in proportion to the load.
//   statistics    iteration i has the recorded counts of iteration i mod recorded iterations; with
//                 tokens_per_rank the same shares, drawn anew for that many tokens.
//   traces        real tokens, whose experts go together. Each trace (one --load) is equally
//   likely.
//     mixed       as in decode: each token of a rank is any token of any trace.
//     sequence    as in prefill: a rank has consecutive tokens of one text: the text is drawn in
//                 proportion to its length, the place in it is uniform among those from which
//                 tokens_per_rank tokens are left. A shorter text is taken whole and the rest of
//                 the rank's tokens are drawn in the same way again.
//
// Loads and statistics do not say which rank a token came from: there a token's rank is uniform, so
// that a rank has tokens_per_rank tokens on average.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "eplb/statistics.h"
#include "eplb/trace.h"
#include "eplb/types.h"

namespace wideep::eplb {

enum class Batching { kMixed, kSequence };

Result<Batching> parse_batching(std::string_view name);

struct BatchOptions {
  int num_ranks = 0;            // source ranks
  int64_t tokens_per_rank = 0;  // 0: as recorded (statistics only)
  int top_k = 0;                // experts a token; 0: the source's own, 8 where it does not say
  int num_experts = 0;          // 0: the source's own; else it must not have more
  Batching batching = Batching::kMixed;
  uint64_t seed = 0;
  IterationWindow window = {};  // of statistics
};

class BatchSource {
 public:
  // Opens what `paths` name (load.h); several paths must all be traces. kInvalidInput where sizes
  // do not fit together.
  static Result<BatchSource> open(const std::vector<std::string>& paths,
                                  const BatchOptions& options);
  static Result<BatchSource> from_load(Load load, const BatchOptions& options);
  static Result<BatchSource> from_statistics(Statistics statistics, const BatchOptions& options);
  static Result<BatchSource> from_traces(std::vector<Trace> traces, const BatchOptions& options);

  int num_ranks() const { return options_.num_ranks; }
  int num_experts() const { return options_.num_experts; }
  int num_layers() const { return static_cast<int>(layers_.size()); }
  int top_k() const { return options_.top_k; }
  // Decoder layer of each row; a trace does not name its layers and numbers its rows from 0.
  const std::vector<int>& layers() const { return layers_; }
  bool names_layers() const { return !std::holds_alternative<std::vector<Trace>>(data_); }

  // Counts of one batch: [num_ranks, num_experts] where per_rank, else their sum [num_experts].
  // Both describe the same batch. O(num_ranks x num_experts) for loads and statistics, or
  // O(num_experts) for the sum; O(num_ranks x tokens_per_rank x top_k) for traces.
  void counts(int64_t iteration, int layer_index, bool per_rank,
              std::vector<int64_t>& counts) const;

  // Expert lists [n, top_k] of some tokens of the batch, -1 where not routed, spread over the
  // ranks; n <= max_tokens. Loads and statistics: top_k different experts, drawn one after the
  // other in proportion to the load.
  void token_experts(int64_t iteration, int layer_index, int max_tokens,
                     std::vector<int>& experts) const;

  // Counts over everything that is recorded, traces in equal parts: what a plan for this source
  // would be made from.
  Load total_load() const;

 private:
  using Data = std::variant<Load, Statistics, std::vector<Trace>>;
  // Consecutive tokens of a trace.
  struct Run {
    int trace;
    int64_t begin;
    int64_t size;
  };

  BatchSource(Data data, std::vector<int> layers, const BatchOptions& options)
      : data_(std::move(data)), layers_(std::move(layers)), options_(options) {}

  std::span<const int64_t> weights(int64_t iteration, int layer_index) const;
  int64_t num_draws(std::span<const int64_t> weights) const;
  Run draw_run(Random& random, const std::vector<Trace>& traces, int64_t size) const;
  template <typename Visit>
  void visit_rank(int64_t iteration, int rank, int64_t max_tokens, Visit visit) const;
  void count_traces(int64_t iteration, int layer_index, bool per_rank,
                    std::vector<int64_t>& counts) const;

  Data data_;
  std::vector<int> layers_;
  BatchOptions options_;
};

}  // namespace wideep::eplb
