#include "base/cuda.h"

#include <fmt/format.h>

#include <utility>

namespace wideep {

Status cuda_status(const char* call, cudaError_t error) {
  if (error == cudaSuccess) return Status::ok();
  return Status::unavailable(fmt::format("CUDA: {}: {}", call, cudaGetErrorString(error)));
}

Result<CudaStream> CudaStream::create(Priority priority) {
  int lowest = 0;
  int highest = 0;
  RETURN_IF_CUDA_ERROR(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
  int value = 0;
  if (priority == Priority::kLowest) value = lowest;
  if (priority == Priority::kHighest) value = highest;
  CudaStream stream;
  RETURN_IF_CUDA_ERROR(cudaStreamCreateWithPriority(&stream.stream_, cudaStreamNonBlocking, value));
  return stream;
}

CudaStream::CudaStream(CudaStream&& other) noexcept
    : stream_(std::exchange(other.stream_, nullptr)) {}

CudaStream& CudaStream::operator=(CudaStream&& other) noexcept {
  std::swap(stream_, other.stream_);
  return *this;
}

CudaStream::~CudaStream() {
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

Status CudaStream::synchronize() const {
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
  return Status::ok();
}

}  // namespace wideep
