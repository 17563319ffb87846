#include "engine/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/file_testing.h"

namespace wideep::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::StartsWith;

TEST(Dataset, ReadsTextsAndIds) {
  const TemporaryFolder folder;
  const std::string path =
      folder.write("d.jsonl",
                   "{\"task_id\": 3, \"prompt\": \"Grüße\", \"output_tokens\": 128}\n"
                   "\n"
                   "{\"input_ids\": [5, 17, 2], \"output_tokens\": 64}\r\n"
                   "{\"task_id\": 5, \"logits\": [1], \"output_tokens\": 1}");
  const std::vector<DatasetEntry> entries = read_dataset(path).value();
  ASSERT_EQ(entries.size(), 3U);
  EXPECT_EQ(entries[0].task_id, 3);
  EXPECT_EQ(entries[0].prompt, "Grüße");
  EXPECT_EQ(entries[0].output_tokens, 128);
  EXPECT_THAT(entries[1].input_ids, ElementsAre(5, 17, 2));
  EXPECT_EQ(entries[1].output_tokens, 64);
  EXPECT_THAT(entries[2].input_ids, ElementsAre(1));
}

TEST(Dataset, ErrorsNameTheLine) {
  const std::string good = "{\"prompt\": \"x\", \"output_tokens\": 1}\n";
  const auto error = [&](const std::string& line) {
    return error_of(parse_dataset(good + line, "d"));
  };
  EXPECT_THAT(error("{"), StartsWith("d:2: "));
  EXPECT_EQ(error("[1]"), "d:2: must be a JSON object");
  EXPECT_EQ(error(R"({"prompt": "x"})"), "d:2: output_tokens: is missing");
  EXPECT_EQ(error(R"({"output_tokens": 4})"), "d:2: must have one of prompt and input_ids");
  EXPECT_EQ(error(R"({"prompt": "x", "input_ids": [1], "output_tokens": 4})"),
            "d:2: must have one of prompt and input_ids");
  EXPECT_EQ(error(R"({"prompt": "", "output_tokens": 4})"),
            "d:2: prompt: must be a text that is not empty");
  EXPECT_EQ(error(R"({"prompt": 4, "output_tokens": 4})"),
            "d:2: prompt: must be a text that is not empty");
  EXPECT_EQ(error(R"({"input_ids": [], "output_tokens": 4})"),
            "d:2: input_ids: must be a list of at least one token id");
  EXPECT_EQ(error(R"({"input_ids": [1, -2], "output_tokens": 4})"),
            "d:2: input_ids: -2: a token id is an integer from 0 on");
  EXPECT_EQ(error(R"({"input_ids": [1.5], "output_tokens": 4})"),
            "d:2: input_ids: 1.5: a token id is an integer from 0 on");
  EXPECT_EQ(error(R"({"prompt": "x", "output_tokens": 0})"),
            "d:2: output_tokens: 0: must be an integer from 1 on");
  EXPECT_EQ(error(R"({"prompt": "x", "output_tokens": 3000000000})"),
            "d:2: output_tokens: 3000000000: must be an integer from 1 on");
  EXPECT_EQ(error(R"({"prompt": "x", "output_tokens": 1, "tokens": 2})"),
            "d:2: tokens: unknown key, must be task_id, prompt, input_ids or output_tokens");
  EXPECT_EQ(error_of(parse_dataset("\n", "d")), "d: has no request");
  EXPECT_EQ(read_dataset("/nonexistent").status().code(), StatusCode::kNotFound);
}

TEST(Dataset, SyntheticLoadsAreReproducible) {
  const SyntheticLoad load{
      .num_requests = 3, .input_tokens = 50, .output_tokens = 7, .vocab_size = 9, .seed = 4};
  const std::vector<DatasetEntry> entries = synthetic_dataset(load);
  ASSERT_EQ(entries.size(), 3U);
  EXPECT_EQ(entries[2].task_id, 2);
  EXPECT_EQ(entries[2].output_tokens, 7);
  EXPECT_EQ(entries[2].input_ids.size(), 50U);
  EXPECT_EQ(std::ranges::max(entries[2].input_ids), 8);
  EXPECT_NE(entries[0].input_ids, entries[1].input_ids);
  EXPECT_EQ(synthetic_dataset(load)[1].input_ids, entries[1].input_ids);
}

}  // namespace
}  // namespace wideep::engine
