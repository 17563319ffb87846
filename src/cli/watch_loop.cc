#include "cli/watch_loop.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/file.h"

namespace wideep::cli {
namespace {

// What the view has beside the layers: head, table's head and average, balancer.
constexpr int kOtherRows = 13;

Result<std::string> wait_for_file(const WatchOptions& options, const WatchEnvironment& io) {
  const double start = io.now();
  while (true) {
    Result<std::string> text = read_file(options.path, int64_t{1} << 26);
    if (text.is_ok() || text.status().code() != StatusCode::kNotFound) return text;
    if (io.now() - start >= options.timeout) {
      return Status::not_found(
          fmt::format("{}: did not appear in {:.0f} s: was the job started with --metrics_file?",
                      options.path, options.timeout));
    }
    io.sleep(options.interval);
  }
}

class Watch {
 public:
  Watch(const WatchOptions& options, const WatchEnvironment& io) : options_(options), io_(io) {}

  // Whether to go on.
  Result<bool> look() {
    ASSIGN_OR_RETURN(const std::string text, wait_for_file(options_, io_));
    ASSIGN_OR_RETURN(const auto families, parse_metrics(text, options_.path));
    ASSIGN_OR_RETURN(const WatchedJob job, watched_job(families, options_.path));
    const double now = io_.now();
    const JobState state = job_state(job, now, options_.patience);
    // Silence and standstill grow; the rest changes only with the file.
    const bool counts_up = state == JobState::kSilent || state == JobState::kStuck;
    if (text != last_text_ || (counts_up && (state != last_state_ || !options_.lines))) {
      show(job, now);
    }
    last_text_ = text;
    last_state_ = state;
    if (state == JobState::kSilent && now - job.heartbeat > options_.timeout) {
      if (!options_.once) {
        return Status::unavailable(
            fmt::format("{}: the job has been silent for {:.0f} s and did not say that it ended",
                        options_.path, now - job.heartbeat));
      }
    }
    return !options_.once && state != JobState::kEnded;
  }

 private:
  void show(const WatchedJob& job, double now) {
    WatchedText text;
    text.name = options_.path;
    text.now = now;
    text.patience = options_.patience;
    if (last_job_ && job.heartbeat > last_job_->heartbeat) {
      text.iterations_per_s = static_cast<double>(job.iterations - last_job_->iterations) /
                              (job.heartbeat - last_job_->heartbeat);
    }
    const int rows = io_.screen_rows();
    text.max_layers = rows == 0 ? 0 : std::max(1, rows - kOtherRows);
    io_.show(options_.lines ? watch_line(job, text) : watch_text(job, text));
    last_job_ = job;
  }

  const WatchOptions& options_;
  const WatchEnvironment& io_;
  std::string last_text_;
  std::optional<JobState> last_state_;
  std::optional<WatchedJob> last_job_;
};

}  // namespace

Status watch_job(const WatchOptions& options, const WatchEnvironment& environment) {
  Watch watch(options, environment);
  while (true) {
    ASSIGN_OR_RETURN(const bool goes_on, watch.look());
    if (!goes_on) return Status::ok();
    environment.sleep(options.interval);
  }
}

}  // namespace wideep::cli
