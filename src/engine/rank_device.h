// Where a rank computes: on the host's cores, or on a GPU.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "base/stream.h"
#include "base/thread_pool.h"
#include "dist/communicator.h"
#include "kernels/device_stream.h"

namespace wideep::engine {

enum class DeviceKind { kCpu, kCuda };

// "cpu", "cuda", or "auto": cuda where this build and this machine have it. kUnavailable, saying
// why, where cuda is asked for and is not there.
Result<DeviceKind> choose_device(std::string_view name);

class RankDevice {
 public:
  // Collective over the world. GPUs go round the ranks of a host, which may be more than GPUs. The
  // pool outlives the device; the calling thread is the one that uses it.
  static Result<std::unique_ptr<RankDevice>> open(DeviceKind kind, ThreadPool& pool,
                                                  dist::Communicator& world);

  Stream& stream() { return gpu_ != nullptr ? gpu_->stream() : cpu_; }
  // This rank's share of the memory that was free when the device was opened.
  int64_t available_bytes() const { return available_bytes_; }

 private:
  explicit RankDevice(ThreadPool& pool) : cpu_(pool) {}

  Stream cpu_;
  std::unique_ptr<kernels::DeviceStream> gpu_;  // null: the CPU
  int64_t available_bytes_ = 0;
};

}  // namespace wideep::engine
