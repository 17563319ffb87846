// MetricsFile: a registry's text in a file, kept fresh by a thread of its own, so that whoever
// observes waits for no disk. For `wideep eplb watch`, and for collectors that read files (the node
// exporter's textfile collector).
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/metrics.h"
#include "base/status.h"

namespace wideep {

class MetricsFile {
 public:
  struct Options {
    std::string path;
    std::chrono::milliseconds interval{500};  // between writes; > 0
  };

  // Writes the file once, so that a folder that cannot be written to is an error now, and then at
  // every interval. The file is replaced as a whole: readers never see half of it. Adds the gauge
  // wideep_heartbeat_timestamp_seconds. The registry outlives the file.
  static Result<std::unique_ptr<MetricsFile>> create(MetricsRegistry& registry, Options options);
  // As close(), its error lost.
  ~MetricsFile();
  MetricsFile(const MetricsFile&) = delete;

  // Writes the last values and ends the thread. The error of this last write: one before it is
  // mended by the next write that succeeds.
  Status close();

 private:
  MetricsFile(MetricsRegistry& registry, Options options);

  Status write();
  void write_until_closed();

  MetricsRegistry& registry_;
  const Options options_;
  Gauge& heartbeat_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool closed_ = false;
  std::thread thread_;
};

}  // namespace wideep
