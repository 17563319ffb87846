#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "kernels/cuda_testing.h"
#include "kernels/transfer.h"

namespace wideep::kernels {
namespace {

class TransferCudaTest : public CudaTest {
 protected:
  std::vector<std::byte> random_bytes(int64_t count) {
    std::vector<std::byte> bytes(static_cast<size_t>(count));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random_.below(256));
    return bytes;
  }
};

// Bytes of the two pieces, and how far each is from a boundary of 16 bytes.
struct PairCase {
  int64_t first;
  int64_t second;
  int64_t offset;
};

TEST_F(TransferCudaTest, CopiesPairs) {
  const std::vector<PairCase> cases = {{0, 0, 0},     {16, 0, 0},         {0, 48, 0},
                                       {5, 1027, 0},  {4096, 1600, 3},    {1 << 20, 16, 0},
                                       {16, 9296, 0}, {9'000'000, 16, 0}, {1'081'344 * 16, 800, 0}};
  for (const PairCase& sizes : cases) {
    SCOPED_TRACE(testing::Message()
                 << sizes.first << " and " << sizes.second << " from " << sizes.offset);
    constexpr int64_t kGap = 32;
    const int64_t behind = sizes.offset + sizes.first + kGap - (sizes.first % 16);
    const std::vector<std::byte> from = random_bytes(behind + sizes.second + kGap);
    const std::vector<std::byte> before(from.size(), std::byte{0xa5});
    const DeviceVector<std::byte> source(from);
    const DeviceVector<std::byte> target(before);
    const auto piece = [&](int64_t offset, int64_t bytes) {
      return CopyPiece{
          source.span().subspan(static_cast<size_t>(offset), static_cast<size_t>(bytes)),
          target.data() + offset};
    };
    copy_pair(stream(), piece(sizes.offset, sizes.first), piece(behind, sizes.second));
    finish();

    std::vector<std::byte> expected = before;
    const auto put = [&](int64_t offset, int64_t bytes) {
      std::copy_n(from.begin() + offset, bytes, expected.begin() + offset);
    };
    put(sizes.offset, sizes.first);
    put(behind, sizes.second);
    EXPECT_EQ(target.host(), expected);
  }
}

}  // namespace
}  // namespace wideep::kernels
