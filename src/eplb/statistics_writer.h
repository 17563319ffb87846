// Writes a statistics folder rank by rank, so that only one rank's counts need to be in memory, and
// replaces an older folder as a whole or not at all.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "eplb/statistics.h"

namespace wideep::eplb {

// What the counts of a folder are.
struct StatisticsLayout {
  int num_experts = 0;
  int top_k = 0;
  // A balancer is active: the folder has counts of slots, its folder `experts` those of experts.
  int num_slots = 0;  // 0: none
  int ep_size = 0;    // written where it is not the number of ranks that counts are added of
};

// Files are staged in a hidden folder inside the target. commit() removes the old meta_info.json,
// moves the staged files into place, removes what other statistics files the folder had (a run with
// more ranks), and moves the new meta_info.json last: a reader sees the old folder, the new one,
// or, if the machine stops in between, one without meta_info.json, which every reader refuses.
class StatisticsWriter {
 public:
  // The folder is new, empty, or an older statistics folder: one with any other file is refused.
  static Result<StatisticsWriter> create(const std::string& folder, const StatisticsLayout& layout);

  StatisticsWriter(StatisticsWriter&& other) noexcept;
  StatisticsWriter& operator=(StatisticsWriter&&) = delete;
  // Without commit(): removes the staged files, and the folder where create() made it.
  ~StatisticsWriter();

  // rank{N}.safetensors: of slots where the layout has them, else of experts. May be called for
  // different ranks from different threads.
  Status add_counts(int rank, std::span<const RankCounts> counts);
  // The same of experts where the layout has slots.
  Status add_expert_counts(int rank, std::span<const RankCounts> counts);
  // rank{N}_raw.safetensors, likewise.
  Status add_raw(int rank, std::span<const RawIds> ids);
  Status commit();

 private:
  StatisticsWriter(std::string folder, std::string staging, const StatisticsLayout& layout,
                   bool made_folder);

  std::string experts_staging() const;
  int num_columns() const {
    return layout_.num_slots > 0 ? layout_.num_slots : layout_.num_experts;
  }

  std::string folder_;
  std::string staging_;  // empty: committed or moved from
  StatisticsLayout layout_;
  bool made_folder_;
};

// One rank's raw ids as a file of its own, replaced at once or not at all.
Status write_raw_file(const std::string& path, std::span<const RawIds* const> ids);

}  // namespace wideep::eplb
