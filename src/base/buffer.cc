#include "base/buffer.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#ifdef WIDEEP_CUDA
#include "base/cuda.h"
#endif

namespace wideep {
namespace {

Result<void*> take_host(int64_t bytes) {
  void* data = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return Status::unavailable(
        fmt::format("memory: {} bytes could not be had: {}", bytes, std::strerror(errno)));
  }
  // A wish: where the system grants no huge pages, the buffer works without.
  madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return data;
}

#ifdef WIDEEP_CUDA

Result<void*> take_cuda(int64_t bytes, MemorySpace space) {
  const bool on_device = space == MemorySpace::kDevice;
  const auto size = static_cast<size_t>(bytes);
  void* data = nullptr;
  const cudaError_t error =
      on_device ? cudaMalloc(&data, size) : cudaHostAlloc(&data, size, cudaHostAllocMapped);
  if (error != cudaSuccess) {
    cudaGetLastError();  // not to be found by the next launch
    return Status::unavailable(fmt::format("memory: {} bytes of {} memory could not be had: {}",
                                           bytes, on_device ? "device" : "pinned",
                                           cudaGetErrorString(error)));
  }
  if (on_device) {
    // On the default stream, which other streams do not wait for.
    RETURN_IF_CUDA_ERROR(cudaMemset(data, 0, size));
    RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(nullptr));
  } else {
    std::memset(data, 0, size);
  }
  return data;
}

void give_back_cuda(void* data, MemorySpace space) {
  space == MemorySpace::kDevice ? cudaFree(data) : cudaFreeHost(data);
}

#else

Result<void*> take_cuda(int64_t bytes, MemorySpace) {
  return Status::unavailable(
      fmt::format("memory: {} bytes of a CUDA device: this build has no CUDA", bytes));
}

void give_back_cuda(void*, MemorySpace) {}

#endif

}  // namespace

Result<Buffer> Buffer::allocate(int64_t bytes, MemorySpace space) {
  CHECK(bytes >= 0);
  if (bytes == 0) return Buffer(nullptr, 0, space);
  ASSIGN_OR_RETURN(void* data,
                   space == MemorySpace::kHost ? take_host(bytes) : take_cuda(bytes, space));
  return Buffer(static_cast<std::byte*>(data), bytes, space);
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      space_(other.space_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(space_, other.space_);
  return *this;
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (space_ == MemorySpace::kHost) {
    munmap(data_, static_cast<size_t>(size_));
  } else {
    give_back_cuda(data_, space_);
  }
}

}  // namespace wideep
