// Writes a statistics folder rank by rank, so that only one rank's counts need to be in memory, and
// replaces an older folder as a whole or not at all.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "eplb/statistics.h"

namespace wideep::eplb {

// Files are staged in a hidden folder inside the target. commit() removes the old meta_info.json,
// moves the staged files into place, removes what other statistics files the folder had (a run with
// more ranks), and moves the new meta_info.json last: a reader sees the old folder, the new one,
// or, if the machine stops in between, one without meta_info.json, which every reader refuses.
class StatisticsWriter {
 public:
  // The folder is new, empty, or an older statistics folder: one with any other file is refused.
  static Result<StatisticsWriter> create(const std::string& folder, int num_experts, int top_k);

  StatisticsWriter(StatisticsWriter&& other) noexcept;
  StatisticsWriter& operator=(StatisticsWriter&&) = delete;
  // Without commit(): removes the staged files, and the folder where create() made it.
  ~StatisticsWriter();

  // rank{N}.safetensors. May be called for different ranks from different threads.
  Status add_counts(int rank, std::span<const RankCounts> counts);
  // rank{N}_raw.safetensors, likewise.
  Status add_raw(int rank, std::span<const RawIds> ids);
  Status commit();

 private:
  StatisticsWriter(std::string folder, std::string staging, int num_experts, int top_k,
                   bool made_folder);

  std::string folder_;
  std::string staging_;  // empty: committed or moved from
  int num_experts_;
  int top_k_;
  bool made_folder_;
};

// One rank's raw ids as a file of its own, replaced at once or not at all.
Status write_raw_file(const std::string& path, std::span<const RawIds* const> ids);

}  // namespace wideep::eplb
