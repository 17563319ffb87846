// CUDA's calls as Status, and memory of the device that frees itself. Internal to alltoall.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "base/status.h"

namespace wideep::alltoall {

// kUnavailable naming the call and what CUDA says.
Status cuda_status(const char* call, cudaError_t error);

#define RETURN_IF_CUDA_ERROR(call) RETURN_IF_ERROR(::wideep::alltoall::cuda_status(#call, (call)))

// Zeroed memory of the current device, or pinned memory of the host.
class CudaMemory {
 public:
  enum class Place { kDevice, kHost };

  CudaMemory() = default;
  static Result<CudaMemory> allocate(int64_t bytes, Place place = Place::kDevice);
  CudaMemory(CudaMemory&& other) noexcept;
  CudaMemory& operator=(CudaMemory&& other) noexcept;
  ~CudaMemory();

  std::byte* data() const { return data_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  int64_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  int64_t size_ = 0;
  Place place_ = Place::kDevice;
};

}  // namespace wideep::alltoall
