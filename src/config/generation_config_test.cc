#include "config/generation_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file_testing.h"

namespace wideep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

GenerationConfig parsed(const char* json) {
  const Result<GenerationConfig> config = parse_generation_config(json, "generation_config.json");
  EXPECT_TRUE(config.is_ok()) << config.status().message();
  return config.is_ok() ? *config : GenerationConfig();
}

TEST(GenerationConfig, ReadsThePublishedFiles) {
  const GenerationConfig r1 = parsed(R"({"_from_model_config": true, "bos_token_id": 0,
      "eos_token_id": 1, "do_sample": true, "temperature": 0.6, "top_p": 0.95,
      "transformers_version": "4.39.3"})");
  EXPECT_THAT(r1.eos_token_ids, ElementsAre(1));
  EXPECT_TRUE(r1.do_sample);
  EXPECT_EQ(r1.temperature, 0.6);
  EXPECT_EQ(r1.top_p, 0.95);
  EXPECT_EQ(r1.top_k, std::nullopt);

  const GenerationConfig qwen3 = parsed(R"({"bos_token_id": 151643, "do_sample": true,
      "eos_token_id": [151645, 151643], "pad_token_id": 151643, "temperature": 0.6, "top_k": 20,
      "top_p": 0.95, "transformers_version": "4.51.0"})");
  EXPECT_THAT(qwen3.eos_token_ids, ElementsAre(151645, 151643));
  EXPECT_EQ(qwen3.top_k, 20);
}

TEST(GenerationConfig, ReadsTheModelsOfThisProject) {
  const std::string root = WIDEEP_SOURCE_DIR;
  const auto dsv3 = read_generation_config(root + "/models/dsv3-tiny");
  ASSERT_TRUE(dsv3.is_ok()) << dsv3.status().message();
  EXPECT_THAT(dsv3->eos_token_ids, ElementsAre(1));
  EXPECT_FALSE(dsv3->do_sample);
  const auto qwen3 = read_generation_config(root + "/tests/models/qwen3-moe-random");
  ASSERT_TRUE(qwen3.is_ok()) << qwen3.status().message();
  EXPECT_THAT(qwen3->eos_token_ids, IsEmpty());
}

TEST(GenerationConfig, MayBeAbsentOrSayNothing) {
  const TemporaryFolder folder;
  const auto absent = read_generation_config(folder.path());
  ASSERT_TRUE(absent.is_ok());
  for (const GenerationConfig& config :
       {*absent, parsed("{}"), parsed(R"({"eos_token_id": null, "temperature": null})")}) {
    EXPECT_THAT(config.eos_token_ids, IsEmpty());
    EXPECT_FALSE(config.do_sample);
    EXPECT_FALSE(config.temperature || config.top_p || config.top_k);
  }
  EXPECT_FALSE(parsed(R"({"temperature": 0})").temperature) << "greedy, in other words";
}

TEST(GenerationConfig, ReportsAllViolationsAtOnce) {
  const auto refusal = [](const char* json) {
    return error_of(parse_generation_config(json, "g.json"));
  };
  EXPECT_EQ(
      refusal(R"({"eos_token_id": [1, "2"], "do_sample": "yes", "temperature": -1,
                        "top_p": 1.5, "top_k": -1})"),
      "g.json: eos_token_id: a list of 2: must be a list of integers 0 to 2147483647\n"
      "g.json: do_sample: \"yes\": must be true or false\n"
      "g.json: temperature: -1: must be more than 0 where do_sample is true, else at least 0\n"
      "g.json: top_p: 1.5: must be more than 0 and at most 1\n"
      "g.json: top_k: -1: must be integer 0 to 16777216");
  EXPECT_THAT(refusal(R"({"eos_token_id": -1})"), HasSubstr("eos_token_id: -1: must be integer 0"));
  EXPECT_THAT(refusal(R"({"do_sample": true, "temperature": 0})"), HasSubstr("temperature: 0: "));
  EXPECT_THAT(refusal(R"({"top_p": 0})"), HasSubstr("top_p: 0: must be"));
  EXPECT_THAT(refusal("[]"), HasSubstr("must be an object"));
  EXPECT_THAT(refusal("{"), HasSubstr("not valid JSON"));
  const TemporaryFolder folder;
  folder.write("generation_config.json", "1");
  EXPECT_EQ(error_of(read_generation_config(folder.path())),
            folder / "generation_config.json" + ": must be an object");
}

}  // namespace
}  // namespace wideep
