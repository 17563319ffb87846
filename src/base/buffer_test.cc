#include "base/buffer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace wideep {
namespace {

TEST(Buffer, IsZeroedAndCanBePlannedLargerThanTheMachine) {
  Result<Buffer> buffer = Buffer::allocate(int64_t{1} << 38);
  ASSERT_TRUE(buffer.is_ok()) << buffer.status().message();
  const std::span<float> end = buffer->span<float>(16, buffer->size() - 64);
  for (const float value : end) EXPECT_EQ(value, 0);
  end[15] = 1;
}

TEST(Buffer, MovesItsMemory) {
  Buffer a = Buffer::allocate(4096).value();
  std::byte* data = a.data();
  Buffer b = std::move(a);
  EXPECT_EQ(b.data(), data);
  a = std::move(b);
  EXPECT_EQ(a.data(), data);
  EXPECT_EQ(a.size(), 4096);
}

TEST(Buffer, OfNothingIsEmpty) {
  EXPECT_EQ(Buffer::allocate(0).value().data(), nullptr);
}

TEST(Buffer, ThatTheSystemRefusesNamesItsSize) {
  const Result<Buffer> buffer = Buffer::allocate(std::numeric_limits<int64_t>::max());
  ASSERT_FALSE(buffer.is_ok());
  EXPECT_EQ(buffer.status().code(), StatusCode::kUnavailable);
  EXPECT_THAT(buffer.status().message(), testing::HasSubstr("9223372036854775807 bytes"));
}

}  // namespace
}  // namespace wideep
