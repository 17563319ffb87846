#include "eplb/workload.h"

#include <fmt/format.h>

#include <algorithm>

#include "eplb/cooccurrence.h"
#include "eplb/load.h"
#include "eplb/trace.h"

namespace wideep::eplb {
namespace {

Result<Workload> read_recorded(const std::string& folder, const WorkloadOptions& options) {
  ASSIGN_OR_RETURN(const Statistics statistics,
                   read_statistics(expert_folder(folder), options.window));
  Workload workload(total_load(statistics));
  const int64_t num_iterations = statistics.num_iterations();
  const int64_t num_batches = std::min<int64_t>(num_iterations, options.max_batches);
  for (int64_t b = 0; b < num_batches; ++b) {
    Load batch = workload.load;
    const int iteration = static_cast<int>(b * num_iterations / num_batches);
    for (int i = 0; i < batch.num_layers(); ++i) {
      const auto row = statistics.row(iteration, i);
      std::copy(row.begin(), row.end(), batch.tokens.begin() + int64_t{i} * batch.num_experts);
    }
    workload.batches.push_back(std::move(batch));
  }
  if (options.with_cooccurrence) {
    ASSIGN_OR_RETURN(const auto records, read_raw_statistics(folder, options.window));
    ASSIGN_OR_RETURN(workload.cooccurrence, total_cooccurrence(records, workload.load.num_experts));
  }
  return workload;
}

Result<Workload> read_traces(const std::vector<std::string>& paths,
                             const WorkloadOptions& options) {
  ASSIGN_OR_RETURN(Trace trace, Trace::open(paths));
  Workload workload(total_load(trace));
  if (options.with_cooccurrence) workload.cooccurrence = total_cooccurrence(trace);
  BatchOptions batches;
  batches.num_ranks = options.num_ranks;
  batches.tokens_per_rank = options.tokens_per_rank;
  batches.batching = options.batching;
  batches.seed = options.seed;
  std::vector<Trace> traces;
  traces.push_back(std::move(trace));
  ASSIGN_OR_RETURN(const BatchSource source, BatchSource::from_traces(std::move(traces), batches));
  for (int b = 0; b < options.max_batches; ++b) {
    Load batch = workload.load;
    std::vector<int64_t> counts;
    for (int i = 0; i < batch.num_layers(); ++i) {
      source.counts(b, i, false, counts);
      std::copy(counts.begin(), counts.end(),
                batch.tokens.begin() + int64_t{i} * batch.num_experts);
    }
    workload.batches.push_back(std::move(batch));
  }
  return workload;
}

}  // namespace

Result<Workload> read_workload(const std::vector<std::string>& paths,
                               const WorkloadOptions& options) {
  if (paths.empty()) return Status::invalid_input("no load to read");
  for (const std::string& path : paths) {
    ASSIGN_OR_RETURN(const LoadFormat format, load_format(path));
    if (paths.size() > 1 && format != LoadFormat::kTrace) {
      return Status::invalid_input(
          fmt::format("{}: only npy traces can be joined; give other loads as --scenario", path));
    }
    if (format == LoadFormat::kStatistics) return read_recorded(path, options);
    if (format == LoadFormat::kTrace) continue;
    ASSIGN_OR_RETURN(Load load, read_load(path));
    return Workload(std::move(load));
  }
  return read_traces(paths, options);
}

}  // namespace wideep::eplb
