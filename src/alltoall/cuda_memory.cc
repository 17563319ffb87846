#include "alltoall/cuda_memory.h"

#include <fmt/format.h>

#include <cstring>
#include <utility>

namespace wideep::alltoall {

Status cuda_status(const char* call, cudaError_t error) {
  if (error == cudaSuccess) return Status::ok();
  return Status::unavailable(fmt::format("all-to-all: {}: {}", call, cudaGetErrorString(error)));
}

Result<CudaMemory> CudaMemory::allocate(int64_t bytes, Place place) {
  CudaMemory memory;
  memory.place_ = place;
  if (bytes == 0) return memory;
  void* data = nullptr;
  const auto size = static_cast<size_t>(bytes);
  const cudaError_t error = place == Place::kDevice
                                ? cudaMalloc(&data, size)
                                : cudaHostAlloc(&data, size, cudaHostAllocMapped);
  if (error != cudaSuccess) {
    cudaGetLastError();  // not to be found by the next launch
    return Status::unavailable(fmt::format("all-to-all: {} bytes of {} memory: {}", bytes,
                                           place == Place::kDevice ? "device" : "pinned",
                                           cudaGetErrorString(error)));
  }
  memory.data_ = static_cast<std::byte*>(data);
  memory.size_ = bytes;
  if (place == Place::kDevice) {
    RETURN_IF_CUDA_ERROR(cudaMemset(data, 0, size));
  } else {
    std::memset(data, 0, size);
  }
  return memory;
}

CudaMemory::CudaMemory(CudaMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      place_(other.place_) {}

CudaMemory& CudaMemory::operator=(CudaMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(place_, other.place_);
  return *this;
}

CudaMemory::~CudaMemory() {
  if (data_ == nullptr) return;
  if (place_ == Place::kDevice) {
    cudaFree(data_);
  } else {
    cudaFreeHost(data_);
  }
}

}  // namespace wideep::alltoall
