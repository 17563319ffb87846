#include "kernels/stream_clock.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "kernels/kernels_testing.h"

namespace wideep::kernels {
namespace {

TEST(StreamClock, GivesEachLapItsLabelAndItsTime) {
  TestStream stream(1);
  const auto clock = StreamClock::create(stream);
  clock->mark(stream, 7);
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  clock->mark(stream, 3);
  clock->mark(stream, 7);
  clock->mark(stream, 0);
  const std::vector<Lap> laps = clock->laps(stream).value();
  ASSERT_EQ(laps.size(), 3U) << "the last mark only ends a lap";
  EXPECT_EQ(laps[0].label, 7);
  EXPECT_EQ(laps[1].label, 3);
  EXPECT_EQ(laps[2].label, 7);
  EXPECT_GE(laps[0].us, 2000) << "it slept for so long";
  for (const Lap& lap : laps) EXPECT_GE(lap.us, 0);
}

TEST(StreamClock, BeginsAnewAfterItWasRead) {
  TestStream stream(1);
  const auto clock = StreamClock::create(stream);
  EXPECT_TRUE(clock->laps(stream).value().empty());
  clock->mark(stream, 1);
  EXPECT_TRUE(clock->laps(stream).value().empty());
  clock->mark(stream, 2);
  clock->mark(stream, 3);
  const std::vector<Lap> laps = clock->laps(stream).value();
  ASSERT_EQ(laps.size(), 1U);
  EXPECT_EQ(laps[0].label, 2);
}

}  // namespace
}  // namespace wideep::kernels
