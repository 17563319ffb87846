#include "engine/orders.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file_testing.h"

namespace wideep::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Orders some_orders() {
  Orders orders;
  orders.sequences.push_back(
      {.scheduler = 2,
       .sequence = {.id = 7,
                    .prompt = {1, 2, 3},
                    .max_new_tokens = 9,
                    .stop_token_ids = {5},
                    .sampling = {.temperature = 0.5F, .top_k = 3, .top_p = 0.25F, .seed = 11}}});
  orders.sequences.push_back(
      {.scheduler = 0,
       .sequence = {
           .id = 8, .prompt = {4}, .max_new_tokens = 1, .stop_token_ids = {}, .sampling = {}}});
  orders.cancels = {3, 4};
  orders.shutdown = true;
  return orders;
}

TEST(Orders, ComeBackAsTheyWere) {
  const Orders orders = decode_orders(encode(some_orders())).value();
  ASSERT_EQ(orders.sequences.size(), 2U);
  EXPECT_EQ(orders.sequences[0].scheduler, 2);
  const SequenceSpec& sequence = orders.sequences[0].sequence;
  EXPECT_EQ(sequence.id, 7);
  EXPECT_THAT(sequence.prompt, ElementsAre(1, 2, 3));
  EXPECT_EQ(sequence.max_new_tokens, 9);
  EXPECT_THAT(sequence.stop_token_ids, ElementsAre(5));
  EXPECT_EQ(sequence.sampling.temperature, 0.5F);
  EXPECT_EQ(sequence.sampling.top_k, 3);
  EXPECT_EQ(sequence.sampling.top_p, 0.25F);
  EXPECT_EQ(sequence.sampling.seed, 11U);
  EXPECT_THAT(orders.sequences[1].sequence.prompt, ElementsAre(4));
  EXPECT_THAT(orders.cancels, ElementsAre(3, 4));
  EXPECT_TRUE(orders.shutdown);
  EXPECT_TRUE(decode_orders(encode(Orders{}))->empty());
}

TEST(Orders, BytesOfTheWrongLengthAreAnError) {
  const std::vector<std::byte> bytes = encode(some_orders());
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_THAT(error_of(decode_orders(std::span(bytes).first(length))), HasSubstr("wrong length"))
        << length;
  }
  std::vector<std::byte> longer = bytes;
  longer.push_back({});
  EXPECT_FALSE(decode_orders(longer).is_ok());
}

TEST(Outputs, ComeBackAsTheyWere) {
  const std::vector<TokenOutput> outputs = {
      {.id = 5, .token = 17, .finish = FinishReason::kNone, .num_cached_tokens = 3},
      {.id = 6, .token = -1, .finish = FinishReason::kError, .num_cached_tokens = 0}};
  const std::vector<std::byte> bytes = encode(outputs);
  const std::vector<TokenOutput> back = decode_outputs(bytes).value();
  ASSERT_EQ(back.size(), 2U);
  EXPECT_EQ(back[0].id, 5);
  EXPECT_EQ(back[0].token, 17);
  EXPECT_EQ(back[0].num_cached_tokens, 3);
  EXPECT_EQ(back[1].finish, FinishReason::kError);
  EXPECT_FALSE(decode_outputs(std::span(bytes).first(bytes.size() - 1)).is_ok());
}

}  // namespace
}  // namespace wideep::engine
