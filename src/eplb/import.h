// Makes a statistics folder, as a run of the engine would have recorded it, from a load or a trace
// that some other system recorded: so that the tools can be tried at full size without GPUs.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "eplb/batch_source.h"
#include "eplb/load.h"

namespace wideep::eplb {

struct ImportSource {
  LoadFormat format = LoadFormat::kSglang;
  std::vector<std::string> paths;  // one; traces: one or more, their texts in a row
  std::string dataset = "";        // csv: only the rows of this data set; "": all
  int num_experts = 0;             // traces; 0: the largest id + 1
  int first_layer = 0;             // traces: decoder layer of their first layer
};

struct ImportOptions {
  int num_ranks = 32;
  int num_iterations = 100;
  int tokens_per_rank = 128;  // of one iteration
  int top_k = 0;              // experts a token; 0: the source's own, 8 where it does not say
  uint64_t seed = 0;
  bool raw = false;                      // also write each token's ids, rankN_raw.safetensors
  Batching batching = Batching::kMixed;  // of traces: which tokens a rank has (batch_source.h)
  int threads = 0;                       // 0: all cores
};

struct ImportSummary {
  int num_layers = 0;
  int num_experts = 0;
  int top_k = 0;
};

// Iterations are numbered from 0. Counts of a rank, iteration and layer sum to tokens_per_rank x
// top_k (less what a trace did not route; 0 in a layer without load).
//   a load   each routed pair picks its expert independently (sampler.h); with raw, each token has
//            top_k different experts (distinct_sampler.h), and the counts are those of the ids.
//   a trace  a rank has whole tokens of the trace, with all layers.
// Each (rank, iteration, layer) has its own generator: the files do not depend on threads. A folder
// is replaced as StatisticsWriter does: on any error it keeps what it had.
// `progress` is called from any thread, num_ranks x num_iterations times.
// O(ranks x iterations x layers x experts) for loads; memory: one rank's counts a thread.
Result<ImportSummary> import_statistics(const ImportSource& source, const ImportOptions& options,
                                        const std::string& folder,
                                        const std::function<void()>& progress = {});

}  // namespace wideep::eplb
