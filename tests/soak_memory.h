// What memory a rank of tests/soak.cc has, and whether it grew.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/status.h"
#include "base/thread_pool.h"
#include "kernels/device_stream.h"

namespace wideep {

// Of one rank, in bytes.
struct Memory {
  int64_t resident = 0;  // of its process
  int64_t gpu = 0;       // that anybody has taken of its GPU
};

class MemoryProbe {
 public:
  // gpu: of this process, or none. For the thread that opened it.
  static Result<MemoryProbe> open(ThreadPool& pool, std::optional<int> gpu);

  Result<Memory> look() const;

 private:
  std::unique_ptr<kernels::DeviceStream> gpu_;
  int64_t gpu_bytes_ = 0;
};

// kAborted naming the first rank whose memory grew by more than 2 % and 8 MB.
Status check_growth(std::span<const Memory> before, std::span<const Memory> after);

// "resident 141.2 139.0 MB": of each rank.
std::string memory_text(std::span<const Memory> ranks);

}  // namespace wideep
