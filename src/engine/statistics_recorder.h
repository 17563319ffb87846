// Counts routed experts over a window of iterations and writes them as a statistics folder, one
// file a rank of the world, as TensorRT-LLM does (docs/formats.md).
//
// Every routed (token, k) is counted once over all ranks: with attention TP the first rank of the
// tp group counts, with attention DP and CP each rank its own rows, with PP each stage its layers;
// what a rank does not count is zero in its file. Where a load balancer is active both views are
// kept: the slots that tokens were sent to, and the experts that they chose.
//
// Counts stay on their ranks and go to rank 0 of the world, which writes, rank by rank when the
// window ends, so ranks need no common file system. With several replicas, whose iterations are not
// in step, they go when the run ends. Nothing is called and nothing is kept outside the window.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "config/engine_config.h"
#include "config/mapping.h"
#include "config/model_config.h"
#include "dist/communicator.h"
#include "dist/groups.h"
#include "engine/statistics_options.h"
#include "eplb/statistics.h"
#include "eplb/statistics_writer.h"
#include "models/model.h"

namespace wideep::engine {

// What came of a window, on rank 0 of the world.
struct StatisticsOutcome {
  StatisticsOptions asked;
  int iter_stop = 0;           // recorded: [asked.iter_start, iter_stop)
  int64_t iterations_run = 0;  // of replica 0, when the counts were written
  int num_ranks = 0;
  int ep_size = 0;
  Status status;  // of writing the folder; the run goes on where it fails
  // Summed over ranks: of slots with a balancer, else of experts. Null where nothing was recorded.
  std::optional<eplb::Statistics> counts;
};
// One line: what was recorded of what was asked, and where it is.
std::string describe(const StatisticsOutcome& outcome);

// All of these outlive the recorder.
struct RecorderSetup {
  std::optional<StatisticsOptions> statistics = std::nullopt;  // that of the world's rank 0 counts
  const ModelConfig* config = nullptr;
  const EngineConfig* engine = nullptr;
  const Mapping* mapping = nullptr;
  const dist::Groups* groups = nullptr;
  dist::Communicator* world = nullptr;
  models::Model* model = nullptr;
  std::function<void(const StatisticsOutcome&)> on_outcome = {};  // on rank 0 of the world
};

class StatisticsRecorder : private models::RoutingObserver {
 public:
  // Collective over the world. Null where no statistics are wanted. An error of rank 0 where the
  // folder cannot be written to, so that no run is made for nothing.
  static Result<std::unique_ptr<StatisticsRecorder>> create(RecorderSetup setup);
  ~StatisticsRecorder() override;
  StatisticsRecorder(const StatisticsRecorder&) = delete;
  StatisticsRecorder& operator=(const StatisticsRecorder&) = delete;

  // Around each forward pass of the replica, iterations from 0 without a gap. end_iteration() is
  // collective at the window's end; an error is one of the world, not of writing.
  void begin_iteration(int64_t iteration);
  Status end_iteration();

  // Writes a window that has not ended. Collective over the world; once written, does nothing.
  Status finish();
  // On rank 0 of the world after the counts were written, else null.
  const StatisticsOutcome* outcome() const { return outcome_ ? &*outcome_ : nullptr; }

 private:
  // Counts of this rank's layers by experts or by slots.
  struct View {
    int width = 0;
    std::vector<std::vector<int64_t>> tokens = {};  // [iterations][own layers x width]
  };
  // Which part of the grid a rank has counted.
  struct Part {
    int64_t iterations = 0;
    int64_t layer_begin = 0;  // index of an MoE layer
    int64_t layer_end = 0;
  };

  explicit StatisticsRecorder(RecorderSetup setup);

  void on_routing(int layer, int first_row, std::span<const int32_t> ids, int top_k) override;
  void on_slots(int layer, std::span<const int32_t> slots) override;
  void count(View& view, int layer, std::span<const int32_t> ids) const;

  eplb::StatisticsLayout layout() const;
  void attach(bool on);
  Status collect();
  Status send_counts();
  Status write_counts(const std::vector<Part>& parts, StatisticsOutcome& outcome);
  Result<std::vector<View>> counts_of(int rank, const Part& part);
  std::vector<eplb::RankCounts> rank_counts(const View& view, const Part& part,
                                            int num_iterations) const;

  RecorderSetup setup_;
  std::vector<int> index_of_layer_;  // decoder layer -> index among the MoE layers, or -1
  Part own_;
  bool counts_rows_ = false;  // does this rank count, or another one of its tp group?
  std::vector<View> views_;   // experts, and slots where there are some
  int64_t iterations_run_ = 0;
  bool is_attached_ = false;
  bool is_collected_ = false;
  std::optional<StatisticsOutcome> outcome_;
};

}  // namespace wideep::engine
