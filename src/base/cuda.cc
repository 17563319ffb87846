#include "base/cuda.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace wideep {

Status cuda_status(const char* call, cudaError_t error) {
  if (error == cudaSuccess) return Status::ok();
  return Status::unavailable(fmt::format("CUDA: {}: {}", call, cudaGetErrorString(error)));
}

Result<GpuUuid> current_gpu_uuid() {
  int device = 0;
  RETURN_IF_CUDA_ERROR(cudaGetDevice(&device));
  cudaDeviceProp properties{};
  RETURN_IF_CUDA_ERROR(cudaGetDeviceProperties(&properties, device));
  GpuUuid uuid{};
  std::copy_n(properties.uuid.bytes, uuid.size(), uuid.begin());
  return uuid;
}

Result<CudaStream> CudaStream::create() {
  CudaStream stream;
  RETURN_IF_CUDA_ERROR(cudaStreamCreateWithFlags(&stream.stream_, cudaStreamNonBlocking));
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
