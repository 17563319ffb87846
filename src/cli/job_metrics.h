// The metrics of a command that runs a model, in the file of --metrics_file.
#pragma once

#include <memory>
#include <string>

#include "base/metrics.h"
#include "base/metrics_file.h"
#include "base/status.h"
#include "engine/engine_metrics.h"

namespace wideep::cli {

class JobMetrics {
 public:
  // Of MetricsFile::create.
  static Result<std::unique_ptr<JobMetrics>> create(const std::string& path);
  // A job that ends early has ended, too.
  ~JobMetrics();
  JobMetrics(const JobMetrics&) = delete;

  void on_iteration(const engine::IterationInfo& info);
  // The job has ended; of MetricsFile::close().
  Status end();

 private:
  JobMetrics() : metrics_(registry_) {}

  MetricsRegistry registry_;
  engine::EngineMetrics metrics_;
  std::unique_ptr<MetricsFile> file_;
};

}  // namespace wideep::cli
