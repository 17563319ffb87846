// What `wideep eplb watch` shows: a job's metrics as numbers, and these as text.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/metrics_text.h"
#include "base/status.h"

namespace wideep::cli {

// Imbalance ratios, (max - mean) / mean of the ranks' tokens; absent where the job has none yet.
struct WatchedLayer {
  int layer = 0;
  double now = 0;
  double average = 0;              // of the last iterations
  std::optional<double> in_order;  // without a balancer
  std::optional<double> before;    // of the last update, as it was planned
  std::optional<double> after;
  int64_t transfers = 0;
};

struct WatchedJob {
  bool running = false;
  double heartbeat = 0;       // s since 1970
  double last_iteration = 0;  // s since 1970; 0: none yet
  int64_t iterations = 0;
  int64_t tokens = 0;
  int64_t requests_running = 0;
  int64_t requests_waiting = 0;

  std::vector<WatchedLayer> layers;  // ascending; none without an MoE balancer
  int64_t ranks = 0;
  int64_t slots = 0;
  int64_t transfers = 0;  // over the layers
  int64_t transfer_bytes = 0;
  int64_t commits = 0;
  int64_t plans_moved = 0;
  int64_t plans_kept = 0;
  double planner_seconds = 0;
  double wait_seconds = 0;
};

// kInvalidInput, opened by `name`, where the metrics are not those of a wideep job or a layer is
// not an integer. Metrics of the balancer may be missing.
Result<WatchedJob> watched_job(std::span<const MetricFamily> families, const std::string& name);

// What the job is doing.
enum class JobState {
  kRunning,
  kEnded,
  kStuck,   // it has requests and writes metrics, but no iteration ends
  kSilent,  // it writes no metrics, and did not say that it ended
};

// `now` in s since 1970. A job is stuck, or silent, after `patience` seconds.
JobState job_state(const WatchedJob& job, double now, double patience);

struct WatchedText {
  std::string name;              // of the file
  double now = 0;                // s since 1970
  double patience = 5;           // as job_state
  double iterations_per_s = -1;  // < 0: not known
  int max_layers = 0;            // the most uneven of these are shown; 0: all
};

// Several lines, each with its end.
std::string watch_text(const WatchedJob& job, const WatchedText& options);

// The same in one line, for logs.
std::string watch_line(const WatchedJob& job, const WatchedText& options);

}  // namespace wideep::cli
