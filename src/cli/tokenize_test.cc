#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iostream>
#include <sstream>

#include "base/file_testing.h"
#include "cli/cli_testing.h"
#include "cli/commands.h"
#include "tokenizer/tokenizer_testing.h"

namespace wideep::cli {
namespace {

using ::testing::HasSubstr;

class Tokenize : public ::testing::Test {
 protected:
  Tokenize() { folder_.write("tokenizer.json", tokenizer::small_tokenizer_json().dump()); }

  // Runs `wideep tokenize --model DIR FLAGS` with `input` on standard input.
  CommandResult run(const std::string& input, const std::vector<std::string>& flags = {}) {
    std::vector<std::string> args = {"tokenize", "--model", folder_.path()};
    args.insert(args.end(), flags.begin(), flags.end());
    std::istringstream in(input);
    std::streambuf* before = std::cin.rdbuf(in.rdbuf());
    std::cin.clear();
    CommandResult result = run_command(add_tokenize, args);
    std::cin.rdbuf(before);
    return result;
  }

  TemporaryFolder folder_;
};

TEST_F(Tokenize, StringsToIds) {
  const CommandResult result = run("\"hello\"\n\"\"\n\"a\\nb\"");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "[260,259]\n[260]\n[260,97,10,98]\n");
  EXPECT_EQ(run("\"hello\"\n", {"--no_special_tokens"}).out, "[259]\n");
  EXPECT_EQ(run("").out, "");
}

TEST_F(Tokenize, IdsToStrings) {
  EXPECT_EQ(run("[260, 259]\n[]\n[195,169,10]\n[226,128,168]\n", {"--decode"}).out,
            "\"<s>hello\"\n\"\"\n\"é\\n\"\n\"\\u2028\"\n");
  EXPECT_EQ(run("[260,259]\n", {"--decode", "--no_special_tokens"}).out, "\"hello\"\n");
}

TEST_F(Tokenize, ABadLineIsNamed) {
  const CommandResult result = run("\"a\"\n[1]\n\"b\"\n");
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.out, "[260,97]\n");
  EXPECT_EQ(result.err, "error: line 2: must be a JSON string\n");
  EXPECT_THAT(run("\"a\n").err, HasSubstr("line 1: not valid JSON"));
  EXPECT_THAT(run("\n").err, HasSubstr("line 1: not valid JSON"));
  EXPECT_EQ(run("\"\\ud800\"\n").exit_code, 2);
  EXPECT_EQ(run("\"\xFF\"\n").exit_code, 2);
}

TEST_F(Tokenize, BadIdsAreNamed) {
  const auto error = [&](const std::string& line) {
    const CommandResult result = run(line + "\n", {"--decode"});
    EXPECT_EQ(result.exit_code, 2) << line;
    return result.err;
  };
  EXPECT_EQ(error("\"a\""), "error: line 1: must be a list of token ids\n");
  EXPECT_EQ(error("[1, -1]"), "error: line 1: -1: must be a token id\n");
  EXPECT_EQ(error("[1.5]"), "error: line 1: 1.5: must be a token id\n");
  EXPECT_EQ(error("[4294967296]"), "error: line 1: 4294967296: must be a token id\n");
  EXPECT_THAT(error("[262]"), HasSubstr("line 1: id 262 is not a token"));
}

TEST_F(Tokenize, ChatsToIds) {
  const std::string chat = R"([{"role": "user", "content": "hello"}])"
                           "\n";
  EXPECT_THAT(run(chat, {"--chat"}).err, HasSubstr("there is no chat template"));
  folder_.write("chat_template.jinja", "<s>{{ messages[0].content }}<e>");
  const CommandResult result = run(chat + "[3]\n", {"--chat"});
  EXPECT_EQ(result.out, "[260,259,261]\n");
  EXPECT_EQ(result.err, "error: line 2: messages[0]: must be an object\n");
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(run("[\n", {"--chat"}).err, HasSubstr("line 1: not valid JSON"));
  EXPECT_EQ(run(chat, {"--chat", "--decode"}).exit_code, 2);
}

TEST_F(Tokenize, AFolderWithoutTokenizerIsBadInput) {
  EXPECT_EQ(run_command(add_tokenize, {"tokenize", "--model", "/nonexistent"}).exit_code, 2);
  EXPECT_EQ(run_command(add_tokenize, {"tokenize"}).exit_code, 2);
}

}  // namespace
}  // namespace wideep::cli
