#include "base/device.h"

#include <gtest/gtest.h>

namespace wideep {
namespace {

TEST(DeviceTest, EitherDevicesOrAProblem) {
  const DeviceReport report = device_report();
  EXPECT_NE(report.devices.empty(), report.problem.empty());
  for (const Device& device : report.devices) {
    EXPECT_FALSE(device.name.empty());
    EXPECT_GT(device.memory_bytes, 0);
    EXPECT_GT(device.compute_major, 0);
    EXPECT_GT(device.num_sms, 0);
  }
}

TEST(DeviceTest, ABuildWithoutCudaSaysSo) {
#ifdef WIDEEP_CUDA
  EXPECT_GT(device_report().runtime_version, 0);
  EXPECT_EQ(device_report().problem.find("built without CUDA"), std::string::npos);
#else
  EXPECT_EQ(device_report().runtime_version, 0);
  EXPECT_EQ(device_report().driver_version, 0);
  EXPECT_NE(device_report().problem.find("built without CUDA"), std::string::npos);
#endif
}

TEST(DeviceTest, VersionText) {
  EXPECT_EQ(cuda_version_text(13000), "13.0");
  EXPECT_EQ(cuda_version_text(12090), "12.9");
}

}  // namespace
}  // namespace wideep
