#include "tests/soak_memory.h"

#include <fmt/format.h>
#include <unistd.h>

#include <fstream>

#include "base/device.h"

namespace wideep {
namespace {

constexpr double kGrowth = 0.02;
constexpr double kGrowthBytes = 8e6;

double megabytes(int64_t bytes) {
  return static_cast<double>(bytes) / 1e6;
}

Status check_growth(const std::string& what, int64_t before, int64_t after) {
  const double limit = static_cast<double>(before) * (1 + kGrowth) + kGrowthBytes;
  if (static_cast<double>(after) <= limit) return Status::ok();
  return Status::aborted(
      fmt::format("{} grew from {:.1f} to {:.1f} MB", what, megabytes(before), megabytes(after)));
}

}  // namespace

Result<MemoryProbe> MemoryProbe::open(ThreadPool& pool, std::optional<int> gpu) {
  MemoryProbe probe;
  if (!gpu) return probe;
  ASSIGN_OR_RETURN(probe.gpu_, kernels::DeviceStream::open(pool, *gpu));
  probe.gpu_bytes_ = device_report().devices[static_cast<size_t>(*gpu)].memory_bytes;
  return probe;
}

Result<Memory> MemoryProbe::look() const {
  Memory memory;
  int64_t pages = 0;  // of the address space, then those that are resident
  std::ifstream statm("/proc/self/statm");
  if (!(statm >> pages >> pages)) return Status::io("/proc/self/statm: cannot read");
  memory.resident = pages * sysconf(_SC_PAGESIZE);
  if (gpu_ == nullptr) return memory;
  ASSIGN_OR_RETURN(const int64_t free, gpu_->free_bytes());
  memory.gpu = gpu_bytes_ - free;
  return memory;
}

Status check_growth(std::span<const Memory> before, std::span<const Memory> after) {
  for (size_t rank = 0; rank < before.size(); ++rank) {
    RETURN_IF_ERROR(check_growth(fmt::format("resident memory of rank {}", rank),
                                 before[rank].resident, after[rank].resident));
    RETURN_IF_ERROR(check_growth(fmt::format("memory of rank {}'s GPU", rank), before[rank].gpu,
                                 after[rank].gpu));
  }
  return Status::ok();
}

std::string memory_text(std::span<const Memory> ranks) {
  std::string text = "resident";
  for (const Memory& rank : ranks) text += fmt::format(" {:.1f}", megabytes(rank.resident));
  if (ranks[0].gpu == 0) return text + " MB";
  text += ", on GPUs";
  for (const Memory& rank : ranks) text += fmt::format(" {:.1f}", megabytes(rank.gpu));
  return text + " MB";
}

}  // namespace wideep
