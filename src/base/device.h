// What this build and this machine offer of CUDA: asked once at start, shown by `wideep info`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace wideep {

struct Device {
  std::string name;
  int64_t memory_bytes = 0;
  int compute_major = 0;  // 9.0 is Hopper, 10.0 Blackwell
  int compute_minor = 0;
  int num_sms = 0;
};

struct DeviceReport {
  // CUDA's own numbering, 1000 major + 10 minor; 0: built without CUDA, or no driver here.
  int runtime_version = 0;
  int driver_version = 0;
  std::vector<Device> devices;
  // Why there are no devices, in one line; empty where there are some.
  std::string problem;
};

// Never fails: what goes wrong is the report's `problem`. Creates no CUDA context.
DeviceReport device_report();

// 13000 -> "13.0".
std::string cuda_version_text(int version);

}  // namespace wideep
