#include "kernels/transfer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/kernels_testing.h"

namespace wideep::kernels {
namespace {

TEST(TransferTest, CopiesRowsBetweenStrides) {
  Random random(1);
  TestStream stream(1);
  const TestMatrix from = random_matrix(random, 5, 7, 3);
  TestMatrix to(5, 7, 1);
  copy_matrix(stream, from.view(), to.view());
  EXPECT_EQ(to.bits(), from.bits());
  expect_gaps_untouched(to);
}

TEST(TransferTest, MovesAndClearsBytes) {
  TestStream stream(1);
  const std::vector<float> from = {1, 2, 3};
  std::vector<float> to(3);
  copy_bytes(stream, std::as_bytes(std::span(from)), reinterpret_cast<std::byte*>(to.data()));
  EXPECT_EQ(to, from);
  std::vector<float> fetched(2);
  fetch_bytes(stream, std::as_bytes(std::span(from).first(2)),
              reinterpret_cast<std::byte*>(fetched.data()));
  EXPECT_THAT(fetched, testing::ElementsAre(1, 2));
  zero_bytes(stream, std::as_writable_bytes(std::span(to).first(2)));
  EXPECT_THAT(to, testing::ElementsAre(0, 0, 3));
}

TEST(TransferTest, CopiesPairs) {
  TestStream stream(1);
  const std::vector<std::byte> from = {std::byte{1}, std::byte{2}, std::byte{3}};
  std::vector<std::byte> to(4);
  const std::span<const std::byte> bytes(from);
  copy_pair(stream, {bytes.first(1), to.data() + 3}, {bytes.subspan(1), to.data()});
  EXPECT_THAT(to, testing::ElementsAre(std::byte{2}, std::byte{3}, std::byte{0}, std::byte{1}));
  copy_pair(stream, {}, {});
}

TEST(TransferTest, StagingGivesWhatWasFilledLast) {
  TestStream stream(1);
  const auto staging = Staging::create(stream, 64).value();
  std::vector<std::byte> to(4);
  for (const int value : {3, 9}) {
    std::ranges::fill(staging->begin(), static_cast<std::byte>(value));
    staging->send(stream, 3, to.data());
    EXPECT_THAT(to,
                testing::ElementsAre(static_cast<std::byte>(value), static_cast<std::byte>(value),
                                     static_cast<std::byte>(value), std::byte{0}));
  }
}

}  // namespace
}  // namespace wideep::kernels
