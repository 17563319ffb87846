#include "base/metrics_file.h"

#include <utility>

#include "base/check.h"
#include "base/file.h"

namespace wideep {

MetricsFile::MetricsFile(MetricsRegistry& registry, Options options)
    : registry_(registry),
      options_(std::move(options)),
      heartbeat_(registry.gauge("wideep_heartbeat_timestamp_seconds",
                                "When these metrics were written, in seconds since 1970.")) {
  CHECK(options_.interval.count() > 0);
}

Result<std::unique_ptr<MetricsFile>> MetricsFile::create(MetricsRegistry& registry,
                                                         Options options) {
  // The constructor is private.
  std::unique_ptr<MetricsFile> file(new MetricsFile(registry, std::move(options)));
  RETURN_IF_ERROR(file->write());
  file->thread_ = std::thread([raw = file.get()] { raw->write_until_closed(); });
  return file;
}

MetricsFile::~MetricsFile() {
  if (!closed_) static_cast<void>(close());
}

Status MetricsFile::close() {
  CHECK(!closed_);
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  if (!thread_.joinable()) return Status::ok();  // create() failed
  wake_.notify_one();
  thread_.join();
  return write();
}

Status MetricsFile::write() {
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  heartbeat_.set(now.count());
  return write_file(options_.path, registry_.text());
}

void MetricsFile::write_until_closed() {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, options_.interval, [this] { return closed_; })) {
    lock.unlock();
    static_cast<void>(write());  // the next one may succeed
    lock.lock();
  }
}

}  // namespace wideep
