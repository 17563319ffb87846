// CUDA's calls as Status, and streams that end themselves. Only for code that is built with CUDA.
#pragma once

#include <cuda_runtime_api.h>

#include <array>

#include "base/buffer.h"
#include "base/status.h"
#include "base/stream.h"

namespace wideep {

// kUnavailable naming the call and what CUDA says.
Status cuda_status(const char* call, cudaError_t error);

#define RETURN_IF_CUDA_ERROR(call) RETURN_IF_ERROR(::wideep::cuda_status(#call, (call)))

inline Result<Buffer> device_buffer(int64_t bytes) {
  return Buffer::allocate(bytes, MemorySpace::kDevice);
}
inline Result<Buffer> pinned_buffer(int64_t bytes) {
  return Buffer::allocate(bytes, MemorySpace::kPinned);
}

inline cudaStream_t stream_of(const Stream& stream) {
  CHECK(stream.is_cuda());
  return static_cast<cudaStream_t>(stream.cuda());
}

// What tells GPUs apart, on all hosts.
using GpuUuid = std::array<char, 16>;
Result<GpuUuid> current_gpu_uuid();

// A stream of a device, which does not wait for the default stream. Move-only.
class CudaStream {
 public:
  CudaStream() = default;
  // On the current device.
  static Result<CudaStream> create();
  CudaStream(CudaStream&& other) noexcept;
  CudaStream& operator=(CudaStream&& other) noexcept;
  ~CudaStream();

  cudaStream_t get() const { return stream_; }
  // Waits for everything on the stream.
  Status synchronize() const;

 private:
  cudaStream_t stream_ = nullptr;
};

}  // namespace wideep
