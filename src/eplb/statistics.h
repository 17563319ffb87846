// Expert statistics in TensorRT-LLM's format: a folder with meta_info.json, rankN.safetensors
// (counts) and, where raw ids were kept, rankN_raw.safetensors. docs/formats.md has the layout to
// the byte.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "eplb/types.h"

namespace wideep::eplb {

// Token counts an iteration and layer, summed over the ranks that recorded them.
struct Statistics {
  int num_experts = 0;          // width of a row: experts, or slots where a balancer was active
  int top_k = 0;                // num_experts_per_token
  int num_ranks = 0;            // EP size that the counts were recorded at
  int iter_start = 0;           // first iteration; iterations are contiguous
  int iter_stop = 0;            // one past the last
  std::vector<int> layers;      // [num_layers], strictly ascending
  std::vector<int64_t> tokens;  // [num_iterations, num_layers, num_experts]

  int num_iterations() const { return iter_stop - iter_start; }
  int num_layers() const { return static_cast<int>(layers.size()); }
  std::span<const int64_t> row(int iteration_index, int layer_index) const {
    const int64_t row = static_cast<int64_t>(iteration_index) * num_layers() + layer_index;
    return {tokens.data() + row * num_experts, static_cast<size_t>(num_experts)};
  }
};

// Half-open window of iterations; -1 stands for the data's own first and last.
struct IterationWindow {
  int start = -1;
  int stop = -1;
};

// Reads and sums all rank files of a folder, cut to `window`. Errors name the file and the entry:
// missing or truncated files, wrong dtype or shape, negative counts, iterations or layers that are
// missing in the grid or differ between ranks, an empty window.
Result<Statistics> read_statistics(const std::string& folder, IterationWindow window = {});

// Where the expert counts of a statistics folder are: in its folder `experts` where a balancer was
// active while wideep recorded (the folder itself then counts slots), else in the folder itself.
std::string expert_folder(const std::string& folder);

// Counts of one rank in one iteration and layer.
struct RankCounts {
  int iteration = 0;
  int layer = 0;
  std::vector<int64_t> tokens;  // [num_experts]
};

// Writes meta_info.json and rank files; counts_of_rank[r] becomes rank{r}.safetensors. An older
// statistics folder is replaced as a whole or kept (eplb/statistics_writer.h, which also writes
// rank by rank).
Status write_statistics(const std::string& folder, int num_experts, int top_k,
                        const std::vector<std::vector<RankCounts>>& counts_of_rank);

// Raw routed ids of one rank in one iteration and layer: shape [num_tokens, top_k]; -1: not routed.
struct RawIds {
  int rank = 0;
  int iteration = 0;
  int layer = 0;
  int top_k = 0;
  std::vector<int32_t> experts;  // [num_tokens, top_k]
};

// All rankN_raw.safetensors of a folder, in (iteration, layer, rank) order; kNotFound where the
// folder has none.
Result<std::vector<RawIds>> read_raw_statistics(const std::string& folder,
                                                IterationWindow window = {});
// Adds rankN_raw.safetensors to a folder; each file is replaced at once or not at all.
Status write_raw_statistics(const std::string& folder, const std::vector<RawIds>& ids);

// How often two experts were chosen by the same token, summed over ranks and iterations. A token
// adds 1 to every ordered pair of its top_k experts, the diagonal included.
struct Cooccurrence {
  int num_experts = 0;
  std::vector<int> layers;      // [num_layers], strictly ascending
  std::vector<int64_t> counts;  // [num_layers, num_experts, num_experts]
};

// Sums all cooccurrence_rankN.safetensors of a folder; kNotFound where the folder has none.
Result<Cooccurrence> read_cooccurrence(const std::string& folder, IterationWindow window = {});

// Sum over the iterations.
Load total_load(const Statistics& statistics);

}  // namespace wideep::eplb
