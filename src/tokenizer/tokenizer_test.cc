#include "tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "base/file_testing.h"
#include "tokenizer/stream_decoder.h"
#include "tokenizer/tokenizer_testing.h"

namespace wideep::tokenizer {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr EncodeOptions kPlain{.add_special_tokens = false};

TEST(Tokenizer, EncodesAndDecodes) {
  const Tokenizer tokenizer = make_tokenizer(small_tokenizer_json()).value();
  EXPECT_THAT(tokenizer.encode("hello").value(), ElementsAre(260, 259));
  EXPECT_THAT(tokenizer.encode("hell<e>o", kPlain).value(), ElementsAre(258, 261, 'o'));
  EXPECT_THAT(tokenizer.encode("").value(), ElementsAre(260));
  EXPECT_THAT(tokenizer.encode("", kPlain).value(), ElementsAre());
  const std::vector<int> ids = {260, 259, ' ', 0xC3, 0xA9, 261};
  EXPECT_EQ(tokenizer.decode(ids).value(), "<s>hello é<e>");
  EXPECT_EQ(tokenizer.decode(ids, {.skip_special_tokens = true}).value(), "hello é");
  EXPECT_EQ(tokenizer.decode(std::vector<int>{'a', 0xC3}).value(), "a\uFFFD");
}

TEST(Tokenizer, LooksTokensUp) {
  const Tokenizer tokenizer = make_tokenizer(small_tokenizer_json()).value();
  EXPECT_EQ(tokenizer.vocab_size(), 262);
  EXPECT_EQ(tokenizer.id_of("hello"), 259);
  EXPECT_EQ(tokenizer.id_of("Ġ"), ' ');
  EXPECT_EQ(tokenizer.id_of("nothing"), std::nullopt);
  EXPECT_EQ(tokenizer.token_of(260), "<s>");
  EXPECT_EQ(tokenizer.token_of(-1), std::nullopt);
  EXPECT_EQ(tokenizer.token_of(262), std::nullopt);
  EXPECT_TRUE(tokenizer.is_special(260));
  EXPECT_FALSE(tokenizer.is_special(259) || tokenizer.is_special(999));
}

TEST(Tokenizer, BadInputIsAnError) {
  Json document = small_tokenizer_json();
  document["added_tokens"][1]["id"] = 300;  // 261 to 299 are no tokens
  const Tokenizer tokenizer = make_tokenizer(document).value();
  EXPECT_EQ(error_of(tokenizer.encode("ab\xFFz")), "the text is not UTF-8 at byte 2 of 4 (0xFF)");
  for (const int id : {-1, 261, 301, INT32_MAX}) {
    EXPECT_THAT(error_of(tokenizer.decode(std::vector<int>{'a', id})), HasSubstr("is not a token"));
  }
}

TEST(Tokenizer, NormalisesBetweenRawAndNormalisedTokens) {
  Json document = small_tokenizer_json();
  document["normalizer"] = {{"type", "NFC"}};
  document["added_tokens"].push_back({{"id", 262}, {"content", "é!"}, {"normalized", true}});
  document["added_tokens"].push_back({{"id", 263}, {"content", "e\u0301?"}, {"normalized", false}});
  const Tokenizer tokenizer = make_tokenizer(document).value();
  EXPECT_THAT(tokenizer.encode("e\u0301", kPlain).value(), ElementsAre(0xC3, 0xA9));
  EXPECT_THAT(tokenizer.encode("e\u0301!", kPlain).value(), ElementsAre(262));
  EXPECT_THAT(tokenizer.encode("e\u0301?", kPlain).value(), ElementsAre(263));
  EXPECT_THAT(tokenizer.encode("é?", kPlain).value(), ElementsAre(0xC3, 0xA9, '?'));
  EXPECT_EQ(tokenizer.decode(std::vector<int>{262}).value(), "é!");
}

TEST(Tokenizer, TheConfigurationNamesSpecialTokens) {
  const TokenizerConfig config{.path = "c.json", .bos_token = "<s>", .eos_token = "hello"};
  const Tokenizer tokenizer = make_tokenizer(small_tokenizer_json(), config).value();
  EXPECT_EQ(tokenizer.bos_id(), 260);
  EXPECT_THAT(tokenizer.eos_ids(), ElementsAre(259));
  EXPECT_TRUE(tokenizer.is_special(259));
  EXPECT_THAT(tokenizer.encode("xhellox", kPlain).value(), ElementsAre('x', 259, 'x'));

  TokenizerConfig generation = config;
  generation.eos_ids = {7, 8};
  EXPECT_THAT(make_tokenizer(small_tokenizer_json(), generation)->eos_ids(), ElementsAre(7, 8));
  const TokenizerConfig unknown{.path = "c.json", .eos_token = "<none>"};
  EXPECT_EQ(error_of(make_tokenizer(small_tokenizer_json(), unknown)),
            "c.json: eos_token: \"<none>\" is not a token of tokenizer.json");
}

TEST(Tokenizer, LlamaFlagsReplaceThePostProcessor) {
  TokenizerConfig config{.path = "c",
                         .bos_token = "<s>",
                         .eos_token = "<e>",
                         .add_bos_token = false,
                         .add_eos_token = true};
  EXPECT_THAT(make_tokenizer(small_tokenizer_json(), config)->encode("a").value(),
              ElementsAre('a', 261));
  config.add_bos_token = true;
  EXPECT_THAT(make_tokenizer(small_tokenizer_json(), config)->encode("a").value(),
              ElementsAre(260, 'a', 261));
  config.bos_token.reset();
  EXPECT_EQ(error_of(make_tokenizer(small_tokenizer_json(), config)),
            "c: add_bos_token: there is no bos_token");
  config = {.path = "c", .bos_token = "<s>", .add_bos_token = true, .add_eos_token = true};
  EXPECT_EQ(error_of(make_tokenizer(small_tokenizer_json(), config)),
            "c: add_eos_token: there is no eos_token");
}

TEST(Tokenizer, LoadsAFolder) {
  const TemporaryFolder folder;
  EXPECT_EQ(Tokenizer::load(folder.path()).status().code(), StatusCode::kNotFound);
  folder.write("tokenizer.json", small_tokenizer_json().dump());
  EXPECT_THAT(Tokenizer::load(folder.path())->encode("hello").value(), ElementsAre(260, 259));
  folder.write("generation_config.json", "x");
  EXPECT_THAT(error_of(Tokenizer::load(folder.path())), HasSubstr("generation_config.json: not"));
}

// Every text comes back, whatever is in it, and any cut of its ids decodes to UTF-8.
TEST(Tokenizer, RandomTextsRoundTrip) {
  const Result<Tokenizer> embedded = Tokenizer::load(embedded_model_folder());
  ASSERT_TRUE(embedded.is_ok()) << embedded.status().message();
  const Tokenizer small = make_tokenizer(small_tokenizer_json()).value();
  for (const Tokenizer* tokenizer : {&*embedded, &small}) {
    Random random(3);
    for (int round = 0; round < 2000; ++round) {
      const std::string text = random_text(random, 40);
      const std::vector<int> ids = tokenizer->encode(text, kPlain).value();
      ASSERT_EQ(tokenizer->decode(ids).value(), text);
      const size_t cut = random.below(ids.size() + 1);
      ASSERT_EQ(find_invalid_utf8(tokenizer->decode(std::span(ids).first(cut)).value()),
                std::nullopt);
    }
  }
}

TEST(Tokenizer, MatchesTheReferenceImplementation) {
  const std::string path = WIDEEP_SOURCE_DIR "/../shared/references/tokenizer-cases.json";
  if (!path_exists(path)) GTEST_SKIP() << path << " is not there";
  const Json cases = read_json(path).value();
  const Tokenizer tokenizer = Tokenizer::load(embedded_model_folder()).value();
  ASSERT_FALSE(cases.empty());
  for (const Json& reference : cases) {
    const auto text = reference["text"].get<std::string>();
    const auto plain = reference["ids_no_special"].get<std::vector<int>>();
    EXPECT_EQ(tokenizer.encode(text).value(), reference["ids"].get<std::vector<int>>()) << text;
    EXPECT_EQ(tokenizer.encode(text, kPlain).value(), plain) << text;
    EXPECT_EQ(tokenizer.decode(plain).value(), text);
  }
}

// Ids of another implementation (Hugging Face tokenizers 0.23) for the embedded model.
TEST(Tokenizer, KnowsTheEmbeddedModel) {
  const Tokenizer tokenizer = Tokenizer::load(embedded_model_folder()).value();
  EXPECT_EQ(tokenizer.vocab_size(), 8192);
  EXPECT_EQ(tokenizer.bos_id(), 0);
  EXPECT_THAT(tokenizer.eos_ids(), ElementsAre(1));
  EXPECT_THAT(tokenizer.encode("<｜User｜>hi<｜Assistant｜>").value(),
              ElementsAre(0, 3, 76, 77, 4));
  EXPECT_THAT(tokenizer.encode("Hello, world!  1234567", kPlain).value(),
              ElementsAre(44, 506, 83, 16, 5968, 995, 5, 261, 3391, 3131, 26, 27));
}

TEST(Tokenizer, ThreadsShareOne) {
  const Tokenizer tokenizer = Tokenizer::load(embedded_model_folder()).value();
  const std::string text = "The quick brown fox 日本語 jumps over 1234567 dogs.\n";
  const std::vector<int> expected = tokenizer.encode(text).value();
  std::vector<std::thread> threads;
  std::vector<int> failures(4);
  for (int& failed : failures) {
    threads.emplace_back([&failed, &tokenizer, &text, &expected] {
      for (int i = 0; i < 200; ++i) failed += tokenizer.encode(text).value() != expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(failures, ElementsAre(0, 0, 0, 0));
}

// Random ids: text that is cut anywhere, bytes that are no characters, special tokens between.
TEST(StreamDecoder, IsDecodeForEverySequence) {
  const Tokenizer tokenizer = make_tokenizer(small_tokenizer_json()).value();
  Random random(4);
  for (int round = 0; round < 3000; ++round) {
    std::vector<int> ids;
    const std::vector<int> text = tokenizer.encode(random_text(random, 10), kPlain).value();
    for (const int id : text) {
      if (random.below(4) == 0) ids.push_back(static_cast<int>(random.below(262)));
      if (random.below(8) != 0) ids.push_back(id);
    }
    const DecodeOptions options{.skip_special_tokens = random.below(2) == 0};
    StreamDecoder decoder(tokenizer, options);
    std::string streamed;
    for (const int id : ids) {
      const std::string part = decoder.push(id).value();
      ASSERT_EQ(find_invalid_utf8(part), std::nullopt);
      streamed += part;
    }
    streamed += decoder.finish();
    ASSERT_EQ(streamed, tokenizer.decode(ids, options).value());
  }
}

TEST(StreamDecoder, HoldsBackWhatMayComplete) {
  const Tokenizer tokenizer = make_tokenizer(small_tokenizer_json()).value();
  StreamDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.push(0xF0).value(), "");
  EXPECT_EQ(decoder.push(0x9F).value(), "");
  EXPECT_EQ(decoder.push(0x91).value(), "");
  EXPECT_THAT(error_of(decoder.push(9999)), HasSubstr("id 9999 is not a token"));
  EXPECT_EQ(decoder.push(0xA9).value(), "👩");
  EXPECT_EQ(decoder.push(0xE6).value(), "");
  EXPECT_EQ(decoder.push('x').value(), "\uFFFDx");
  EXPECT_EQ(decoder.push(0xFF).value(), "\uFFFD");
  EXPECT_EQ(decoder.push(0xC3).value(), "");
  EXPECT_EQ(decoder.finish(), "\uFFFD");
  EXPECT_EQ(decoder.finish(), "");
}

}  // namespace
}  // namespace wideep::tokenizer
