// What the files of a statistics folder are called, and the checks that its readers share. Internal
// to the readers and the writer of statistics.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/safetensors.h"
#include "base/status.h"
#include "eplb/statistics.h"

namespace wideep::eplb {

enum class RankFile {
  kMetaInfo,      // meta_info.json
  kCounts,        // rank{N}.safetensors
  kRaw,           // rank{N}_raw.safetensors
  kCooccurrence,  // cooccurrence_rank{N}.safetensors
  kSelected,      // token_selected_experts_rank{N}.safetensors: known, not read
  kNumTokens,     // rank{N}_numtokens.json: known, not read
  kExperts,       // experts: the folder of the expert counts, where a balancer was active
  kStaging,       // left by a writer that was killed
  kUnknown,
};

struct RankFileName {
  RankFile kind = RankFile::kUnknown;
  int rank = -1;
};

RankFileName parse_rank_file_name(std::string_view name);
std::string rank_file_name(RankFile kind, int rank);

// The name of the folder, directly in the statistics folder, that a writer stages its files in.
inline constexpr std::string_view kStagingPrefix = ".wideep-staging-";

struct MetaInfo {
  int num_experts = 0;
  int top_k = 0;
  int ep_size = 0;  // 0: as many as there are rank files
};

Result<MetaInfo> read_meta_info(const std::string& folder);

// Paths of the files of one kind, [num_ranks] in rank order. kNotFound where there is none; an
// error where a rank is missing or a rank*.safetensors has no name that we know.
Result<std::vector<std::string>> list_rank_files(const std::string& folder, RankFile kind);

struct EntryKey {
  int iteration = 0;
  int layer = 0;
};

// "{iteration}_{layer}", both decimal without sign or leading zeros.
Result<EntryKey> parse_entry_key(const TensorEntry& entry, const std::string& file);

// The iterations and layers of a folder.
struct Grid {
  int iter_start = 0;
  int iter_stop = 0;
  std::vector<int> layers;  // ascending

  int layer_index(int layer) const;  // -1 where there is none
};

// The grid of one file; an error where an iteration or an entry is missing.
Result<Grid> read_grid(const Safetensors& file);

// The window inside the grid, its -1 replaced; an error where it is empty or sticks out.
Result<IterationWindow> resolve_window(IterationWindow window, const Grid& grid,
                                       const std::string& folder);

// Every entry must have this shape; the error names the first that has not.
Status check_shapes(const Safetensors& file, std::span<const int64_t> shape);

// Adds every entry of a file whose iteration is in the window to row(iteration, layer_index). All
// entries must have this shape, dtype I64 or I32 and no negative count, and there must be one for
// each point of the grid and no other.
Status add_entries(const Safetensors& file, const Grid& grid, IterationWindow window,
                   std::span<const int64_t> shape,
                   const std::function<std::span<int64_t>(int, int)>& row);

}  // namespace wideep::eplb
