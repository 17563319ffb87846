#include "engine/rank_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "base/device.h"
#include "dist/hosts.h"
#include "engine/memory_plan.h"

namespace wideep::engine {

Result<DeviceKind> choose_device(std::string_view name) {
  if (name == "cpu") return DeviceKind::kCpu;
  const DeviceReport report = device_report();
  if (!report.devices.empty()) return DeviceKind::kCuda;
  if (name == "auto") return DeviceKind::kCpu;
  return Status::unavailable(
      fmt::format("--device cuda: {}; run with --device cpu", report.problem));
}

Result<std::unique_ptr<RankDevice>> RankDevice::open(DeviceKind kind, ThreadPool& pool,
                                                     dist::Communicator& world) {
  std::unique_ptr<RankDevice> device(new RankDevice(pool));
  ASSIGN_OR_RETURN(const std::unique_ptr<dist::Communicator> host, dist::split_by_host(world));
  if (kind == DeviceKind::kCpu) {
    ASSIGN_OR_RETURN(const int64_t available, available_memory());
    // Nobody takes before everybody has looked.
    RETURN_IF_ERROR(world.barrier());
    device->available_bytes_ = available / host->size();
    return device;
  }
  const DeviceReport report = device_report();
  if (report.devices.empty()) return Status::unavailable(report.problem);
  const int gpu = host->rank() % static_cast<int>(report.devices.size());
  ASSIGN_OR_RETURN(device->gpu_, kernels::DeviceStream::open(pool, gpu));
  // Processes may see different GPUs under the same number.
  const kernels::DeviceStream::Uuid own = device->gpu_->uuid();
  std::vector<kernels::DeviceStream::Uuid> all(static_cast<size_t>(host->size()));
  RETURN_IF_ERROR(
      host->all_gather(std::as_bytes(std::span(own)), std::as_writable_bytes(std::span(all))));
  ASSIGN_OR_RETURN(const int64_t available, device->gpu_->free_bytes());
  RETURN_IF_ERROR(world.barrier());
  device->available_bytes_ = available / std::ranges::count(all, own);
  return device;
}

}  // namespace wideep::engine
