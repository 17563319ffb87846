// `wideep info`: what a bug report should begin with.
#include <fmt/format.h>

#include <thread>

#include "base/device.h"
#include "cli/commands.h"

namespace wideep::cli {
namespace {

void print_info() {
  constexpr double kGiB = 1024.0 * 1024 * 1024;
  const DeviceReport report = device_report();
  fmt::print("wideep    {} ({}, {})\n", WIDEEP_VERSION, WIDEEP_BUILD_TYPE, WIDEEP_COMPILER);
  fmt::print("CPU       {} threads\n", std::thread::hardware_concurrency());
  if (report.runtime_version == 0) {
    fmt::print("CUDA      {}\n", report.problem);
    return;
  }
  fmt::print("CUDA      runtime {}, driver {}\n", cuda_version_text(report.runtime_version),
             report.driver_version == 0 ? "none" : cuda_version_text(report.driver_version));
  if (!report.problem.empty()) fmt::print("devices   none: {}\n", report.problem);
  for (size_t id = 0; id < report.devices.size(); ++id) {
    const Device& device = report.devices[id];
    fmt::print("device {}  {}, {:.1f} GiB, compute {}.{}, {} SMs\n", id, device.name,
               static_cast<double>(device.memory_bytes) / kGiB, device.compute_major,
               device.compute_minor, device.num_sms);
  }
}

}  // namespace

void add_info(CLI::App& parent) {
  parent.add_subcommand("info", "Show the version, the build and the devices")
      ->callback(print_info);
}

}  // namespace wideep::cli
