// Sizes and places of weights and FP8 rows on a device.
#include <gtest/gtest.h>

#include <array>

#include "kernels/grouped_gemm.h"

namespace wideep::kernels {
namespace {

TEST(DeviceWeightTest, HandComputedSizes) {
  EXPECT_EQ(device_weight_bytes(4096, 7168, DType::kBF16), int64_t{4096} * 7168 * 2);
  EXPECT_EQ(device_weight_bytes(3, 5, DType::kF32), 64);   // 60
  EXPECT_EQ(device_weight_bytes(3, 5, DType::kBF16), 32);  // 30
  // 32 x 56 scales are exactly one row of 7168 bytes.
  EXPECT_EQ(device_weight_bytes(4096, 7168, DType::kF8E4M3), int64_t{4097} * 7168);
  // 56 x 16 scales, 3584 bytes: two rows of 2048.
  EXPECT_EQ(device_weight_bytes(7168, 2048, DType::kF8E4M3), int64_t{7170} * 2048);
  // 5 x 56 scales of 576 rows, 1120 bytes.
  EXPECT_EQ(device_weight_bytes(576, 7168, DType::kF8E4M3), int64_t{577} * 7168);
}

TEST(DeviceWeightTest, ScalesFollowTheRows) {
  alignas(16) std::array<std::byte, 4096> memory{};
  const PackedWeight weight = device_weight(memory.data(), 20, 144, DType::kF8E4M3);
  EXPECT_EQ(reinterpret_cast<const std::byte*>(weight.scales), memory.data() + 20 * 144);
  EXPECT_EQ(device_weight_bytes(20, 144, DType::kF8E4M3), 21 * 144);
  EXPECT_EQ(device_weight(memory.data(), 4, 5, DType::kBF16).scales, nullptr);
}

TEST(DeviceWeightTest, GroupsLieAWholeNumberOfRowsApart) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF8E4M3}) {
    for (const int out : {1, 128, 576, 5000}) {
      for (const int in : {16, 144, 2048, 7168}) {
        const GroupedWeight weight = {nullptr, dtype, 3, out, in};
        EXPECT_EQ(weight.stride_bytes() % (in * dtype_size(dtype)), 0) << out << " x " << in;
      }
    }
  }
}

TEST(QuantizedRowsTest, PlacesAndSizes) {
  alignas(128) std::array<std::byte, 8192> memory{};
  const QuantizedRows rows = quantized_rows(memory.data(), 5, 272);
  EXPECT_EQ(rows.data.stride, 272);
  EXPECT_EQ(rows.scale_stride, 8);
  EXPECT_EQ(rows.batch_rows, 5);
  EXPECT_EQ(reinterpret_cast<std::byte*>(rows.scales) - memory.data(), 1408);  // 1360
  EXPECT_EQ(quantized_bytes(5, 272), 1408 + 128);                              // 3 x 8 floats
  const QuantizedRows batches = quantized_rows(memory.data(), 12, 256, 4);
  EXPECT_EQ(batches.scale_stride, 4);
  EXPECT_EQ(quantized_bytes(12, 256, 4), 12 * 256 + 128);  // 3 batches of 2 x 4 floats
  EXPECT_EQ(quantized_bytes(0, 256), 0);
}

}  // namespace
}  // namespace wideep::kernels
