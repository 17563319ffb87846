// Reads what a plan is made for, of any format: the load and, where the source has them, its
// batches.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "eplb/batch_source.h"
#include "eplb/planner.h"
#include "eplb/statistics.h"

namespace wideep::eplb {

struct WorkloadOptions {
  IterationWindow window = {};  // of a statistics folder
  // Of traces: batches as num_ranks ranks with tokens_per_rank tokens each would have had them.
  int num_ranks = 1;
  int64_t tokens_per_rank = 128;
  Batching batching = Batching::kSequence;
  uint64_t seed = 0;
  // At most so many batches; a statistics folder's iterations are taken at equal distances.
  int max_batches = 64;
  bool with_cooccurrence = false;  // where the source has expert ids
};

// paths: one source of any format (load.h), or several traces, which count as one set of texts.
// Load tables (json, csv) have no batches. A trace counts each token once, whatever text it is
// from.
Result<Workload> read_workload(const std::vector<std::string>& paths,
                               const WorkloadOptions& options);

}  // namespace wideep::eplb
