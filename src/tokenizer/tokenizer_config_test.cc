#include "tokenizer/tokenizer_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file_testing.h"

namespace wideep::tokenizer {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(TokenizerConfig, AFolderMayHaveNone) {
  const TemporaryFolder folder;
  const TokenizerConfig config = read_tokenizer_config(folder.path()).value();
  EXPECT_EQ(config.bos_token, std::nullopt);
  EXPECT_EQ(config.chat_template, std::nullopt);
  EXPECT_THAT(config.eos_ids, ElementsAre());
}

TEST(TokenizerConfig, ReadsAllFiles) {
  const TemporaryFolder folder;
  folder.write("tokenizer_config.json",
               R"({"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "<e>",
                   "unk_token": null, "chat_template": "{{ a }}", "add_bos_token": true})");
  folder.write("special_tokens_map.json", R"({"eos_token": "<other>", "pad_token": "<p>"})");
  folder.write("generation_config.json", R"({"eos_token_id": [7, 8]})");
  const TokenizerConfig config = read_tokenizer_config(folder.path()).value();
  EXPECT_EQ(config.bos_token, "<s>");
  EXPECT_EQ(config.eos_token, "<e>");
  EXPECT_EQ(config.pad_token, "<p>");
  EXPECT_EQ(config.unk_token, std::nullopt);
  EXPECT_EQ(config.chat_template, "{{ a }}");
  EXPECT_EQ(config.chat_template_path, folder / "tokenizer_config.json" + ": chat_template");
  EXPECT_EQ(config.add_bos_token, std::nullopt);  // not a class that heeds it
  EXPECT_THAT(config.eos_ids, ElementsAre(7, 8));

  folder.write("chat_template.jinja", "{{ b }}");
  folder.write("generation_config.json", R"({"eos_token_id": 9})");
  const TokenizerConfig newer = read_tokenizer_config(folder.path()).value();
  EXPECT_EQ(newer.chat_template, "{{ b }}");
  EXPECT_EQ(newer.chat_template_path, folder / "chat_template.jinja");
  EXPECT_THAT(newer.eos_ids, ElementsAre(9));
}

TEST(TokenizerConfig, LlamaClassesHeedTheirFlags) {
  const TemporaryFolder folder;
  folder.write("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizerFast"})");
  EXPECT_EQ(read_tokenizer_config(folder.path())->add_bos_token, true);
  EXPECT_EQ(read_tokenizer_config(folder.path())->add_eos_token, false);
  folder.write("tokenizer_config.json",
               R"({"tokenizer_class": "LlamaTokenizer", "add_bos_token": false,
                   "add_eos_token": true})");
  EXPECT_EQ(read_tokenizer_config(folder.path())->add_bos_token, false);
  EXPECT_EQ(read_tokenizer_config(folder.path())->add_eos_token, true);
}

TEST(TokenizerConfig, PicksTheDefaultTemplate) {
  const TemporaryFolder folder;
  folder.write("tokenizer_config.json",
               R"({"chat_template": [{"name": "tool_use", "template": "t"},
                                     {"name": "default", "template": "d"}]})");
  EXPECT_EQ(read_tokenizer_config(folder.path())->chat_template, "d");
}

TEST(TokenizerConfig, ErrorsNameFileAndKey) {
  const TemporaryFolder folder;
  const auto error_with = [&](const char* contents) {
    folder.write("tokenizer_config.json", contents);
    return error_of(read_tokenizer_config(folder.path()));
  };
  EXPECT_EQ(error_with("[]"), folder / "tokenizer_config.json: must be an object");
  EXPECT_EQ(error_with(R"({"bos_token": 3})"),
            folder / "tokenizer_config.json: bos_token: must be a string");
  EXPECT_THAT(error_with(R"({"bos_token": {}})"), HasSubstr("bos_token: \"content\" is missing"));
  EXPECT_THAT(error_with(R"({"chat_template": 1})"), HasSubstr("chat_template: must be a string"));
  EXPECT_THAT(error_with(R"({"chat_template": [{"name": "a", "template": "b"}]})"),
              HasSubstr("chat_template: none of the templates is named \"default\""));
  EXPECT_THAT(error_with(R"({"chat_template": [{"template": "b"}]})"),
              HasSubstr("chat_template[0]: \"name\" is missing"));
  EXPECT_THAT(error_with(R"({"tokenizer_class": "LlamaTokenizer", "add_bos_token": "x"})"),
              HasSubstr("add_bos_token: must be true or false"));
  EXPECT_THAT(error_with("{"), HasSubstr("not valid JSON"));
  folder.write("tokenizer_config.json", "{}");
  folder.write("generation_config.json", R"({"eos_token_id": [1, "x"]})");
  EXPECT_THAT(error_of(read_tokenizer_config(folder.path())),
              HasSubstr("generation_config.json: eos_token_id[1]: must be an integer"));
}

}  // namespace
}  // namespace wideep::tokenizer
