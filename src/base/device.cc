#include "base/device.h"

#include <fmt/format.h>

#ifdef WIDEEP_CUDA
#include <cuda_runtime_api.h>
#endif

namespace wideep {

#ifdef WIDEEP_CUDA

DeviceReport device_report() {
  DeviceReport report;
  int count = 0;
  // Both calls succeed without a driver: its version is then 0.
  cudaRuntimeGetVersion(&report.runtime_version);
  cudaDriverGetVersion(&report.driver_version);
  if (report.driver_version == 0) {
    report.problem = "no NVIDIA driver on this machine";
    return report;
  }
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    report.problem = fmt::format("no usable device: {}", cudaGetErrorString(error));
    return report;
  }
  for (int id = 0; id < count; ++id) {
    cudaDeviceProp properties{};
    if (const cudaError_t error = cudaGetDeviceProperties(&properties, id); error != cudaSuccess) {
      report.devices.clear();
      report.problem = fmt::format("device {}: {}", id, cudaGetErrorString(error));
      return report;
    }
    report.devices.push_back({.name = properties.name,
                              .memory_bytes = static_cast<int64_t>(properties.totalGlobalMem),
                              .compute_major = properties.major,
                              .compute_minor = properties.minor,
                              .num_sms = properties.multiProcessorCount});
  }
  if (count == 0) report.problem = "the driver sees no device";
  return report;
}

#else

DeviceReport device_report() {
  DeviceReport report;
  report.problem = "built without CUDA (no nvcc when it was configured)";
  return report;
}

#endif

std::string cuda_version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

}  // namespace wideep
