// A stream of a GPU with what its ops share, for code that knows no CUDA.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "base/status.h"
#include "base/stream.h"
#include "base/thread_pool.h"

namespace wideep::kernels {

// Used by the thread that opened it, whose current GPU it sets.
class DeviceStream {
 public:
  // Of GPU `device` of this process. kUnavailable where there is none: the message says why.
  static Result<std::unique_ptr<DeviceStream>> open(ThreadPool& pool, int device);
  virtual ~DeviceStream() = default;

  virtual Stream& stream() = 0;
  // What tells GPUs apart, on all hosts.
  using Uuid = std::array<char, 16>;
  virtual Uuid uuid() const = 0;
  // Memory of the GPU that nobody has taken.
  virtual Result<int64_t> free_bytes() const = 0;

 protected:
  DeviceStream() = default;
};

}  // namespace wideep::kernels
