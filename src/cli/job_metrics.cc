#include "cli/job_metrics.h"

#include <chrono>
#include <utility>

namespace wideep::cli {

Result<std::unique_ptr<JobMetrics>> JobMetrics::create(const std::string& path) {
  // The constructor is private.
  std::unique_ptr<JobMetrics> job(new JobMetrics());
  MetricsFile::Options options;
  options.path = path;
  ASSIGN_OR_RETURN(job->file_, MetricsFile::create(job->registry_, std::move(options)));
  return job;
}

JobMetrics::~JobMetrics() {
  metrics_.on_end();  // the file's own end writes it
}

void JobMetrics::on_iteration(const engine::IterationInfo& info) {
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  metrics_.on_iteration(info, now.count());
}

Status JobMetrics::end() {
  metrics_.on_end();
  return file_->close();
}

}  // namespace wideep::cli
