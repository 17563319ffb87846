// The whole program with the embedded model: what comes out, and how it ends on bad input.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "base/file_testing.h"
#include "base/json.h"
#include "cli/cli_testing.h"
#include "cli/commands.h"
#include "tokenizer/tokenizer.h"

namespace wideep::cli {
namespace {

using ::testing::HasSubstr;

const std::string kModel = WIDEEP_SOURCE_DIR "/models/dsv3-tiny";

CommandResult generate(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"generate", "--model", kModel, "--dtype", "fp32"});
  return run_command(add_generate, std::move(arguments));
}

// A reference's prompt as text, and the text of its greedy tokens.
struct TextReference {
  std::string prompt;
  std::string answer;
  int max_tokens = 0;
};

TextReference text_reference(const std::string& name) {
  const tokenizer::Tokenizer tokenizer = tokenizer::Tokenizer::load(kModel).value();
  const Json all = read_json(WIDEEP_SOURCE_DIR "/tests/models/dsv3-tiny-reference.json").value();
  for (const Json& entry : all) {
    if (entry["name"] != name) continue;
    const auto decode = [&](const Json& ids) {
      return tokenizer.decode(ids.get<std::vector<int>>(), {.skip_special_tokens = true}).value();
    };
    const TextReference reference{decode(entry["token_ids"]), decode(entry["greedy"]),
                                  static_cast<int>(entry["greedy"].size())};
    EXPECT_EQ(Json(tokenizer.encode(reference.prompt).value()), entry["token_ids"]) << name;
    return reference;
  }
  CHECK(false);
}

TEST(Generate, GoesOnAsTheReference) {
  const TextReference reference = text_reference("go-0");
  const CommandResult result = generate({"--prompt", reference.prompt, "--ignore_eos",
                                         "--max_tokens", std::to_string(reference.max_tokens)});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, reference.answer + "\n");
  EXPECT_THAT(result.err, HasSubstr("DeepseekV3ForCausalLM"));
  EXPECT_THAT(result.err, HasSubstr("KV cache"));
}

TEST(Generate, RanksAndReplicasGiveTheSameAnswers) {
  const TextReference go = text_reference("go-0");
  const TextReference german = text_reference("german-0");
  const int tokens = std::min(go.max_tokens, german.max_tokens);
  const CommandResult result = generate(
      {"--prompt", go.prompt, "--prompt", german.prompt, "--ignore_eos", "--max_tokens",
       std::to_string(tokens), "--tp", "2", "--ep", "2", "--enable_attention_dp", "--dp", "2"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, go.answer + "\n" + german.answer + "\n");
}

TEST(Generate, StopsBeforeAStopString) {
  const TextReference reference = text_reference("go-0");
  const std::string stop = reference.answer.substr(reference.answer.size() / 2, 4);
  const CommandResult result = generate({"--prompt", reference.prompt, "--stop", stop,
                                         "--max_tokens", std::to_string(reference.max_tokens)});
  EXPECT_EQ(result.out, reference.answer.substr(0, reference.answer.find(stop)) + "\n");
}

TEST(Generate, AMessageIsRenderedByTheTemplate) {
  const CommandResult said =
      generate({"--chat", "--system", "Be short.", "--prompt", "Hello", "--max_tokens", "8"});
  EXPECT_EQ(said.exit_code, 0) << said.err;
  // The same as text, which begins with the token that begins every text.
  const std::string text = "Be short.<｜User｜>Hello<｜Assistant｜>";
  const CommandResult written = generate({"--prompt", text, "--max_tokens", "8"});
  EXPECT_EQ(said.out, written.out);
}

TEST(Generate, AConversationGoesOnFromItsAnswers) {
  const CommandResult once = generate({"--chat", "--prompt", "Hello", "--max_tokens", "8"});
  const CommandResult twice = generate(
      {"--chat", "--prompt", "Hello", "--prompt", "Hello", "--max_tokens", "8", "--tp", "2"});
  EXPECT_EQ(twice.exit_code, 0) << twice.err;
  EXPECT_TRUE(twice.out.starts_with(once.out)) << twice.out;
  EXPECT_NE(twice.out, once.out + once.out) << "the second turn knows of the first";
}

struct BadInput {
  const char* name;
  std::vector<std::string> arguments;
  const char* message;
};

class GenerateErrors : public ::testing::TestWithParam<BadInput> {};

TEST_P(GenerateErrors, LeaveWithTwoAndOneMessage) {
  const CommandResult result = generate(GetParam().arguments);
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr(GetParam().message));
  EXPECT_EQ(result.err.find("error:"), result.err.rfind("error:"));
}

INSTANTIATE_TEST_SUITE_P(
    All, GenerateErrors,
    ::testing::Values(
        BadInput{"NoPrompt", {}, "nothing to answer"},
        BadInput{"EmptyMessage", {"--chat", "--prompt", ""}, "the prompt is empty"},
        BadInput{"EmptyPrompt", {"--prompt", ""}, "the prompt is empty"},
        BadInput{"TooLong",
                 {"--prompt", "one two three four five six", "--max_seq_len", "4"},
                 "max_seq_len 4 leaves room for 3"},
        BadInput{"NotUtf8", {"--prompt", "abc\xff"}, "UTF-8"},
        BadInput{"Temperature", {"--prompt", "a", "--temperature", "-1"}, "temperature -1"},
        BadInput{"Layout", {"--prompt", "a", "--tp", "3"}, "3"},
        BadInput{"ChatWithReplicas",
                 {"--chat", "--prompt", "a", "--dp", "2"},
                 "talks to one replica: there are 2"}),
    [](const auto& info) { return info.param.name; });

TEST(Generate, OneBadPromptLeavesTheOthersTheirAnswers) {
  const CommandResult result =
      generate({"--prompt", "a", "--prompt", "\xff", "--prompt", "b", "--max_tokens", "2"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("UTF-8"));
  EXPECT_GE(std::ranges::count(result.out, '\n'), 2);
}

TEST(Generate, ModelsThatAreNotThereOrUnknown) {
  const CommandResult missing =
      run_command(add_generate, {"generate", "--model", "/nonexistent", "--prompt", "a"});
  EXPECT_EQ(missing.exit_code, 2);
  EXPECT_THAT(missing.err, HasSubstr("/nonexistent"));
  const TemporaryFolder folder;
  folder.write("config.json", R"({"architectures": ["GPT2LMHeadModel"]})");
  const CommandResult unknown =
      run_command(add_generate, {"generate", "--model", folder.path(), "--prompt", "a"});
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("GPT2LMHeadModel"));
}

TEST(Generate, AModelWithoutATokenizer) {
  const TemporaryFolder folder;
  for (const auto& file : std::filesystem::directory_iterator(kModel)) {
    if (file.path().filename().string().starts_with("tokenizer")) continue;
    std::filesystem::create_symlink(file.path(), folder / file.path().filename().string());
  }
  const CommandResult result =
      run_command(add_generate, {"generate", "--model", folder.path(), "--prompt", "a"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("has no tokenizer.json"));
}

}  // namespace
}  // namespace wideep::cli
