// What must hold for any tokenizer.json and any chat template: the fuzzers call these with what
// they invent (make fuzz), fuzz_corpus_test.cc with what is in tests/corpus/.
#pragma once

#include <string>
#include <string_view>

#include "tokenizer/stream_decoder.h"
#include "tokenizer/template_evaluator.h"
#include "tokenizer/template_parser.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"

namespace wideep::tokenizer {

inline void check_tokenizer_json(std::string_view input) {
  const Result<Json> document = parse_json(input, "input");
  if (!document.is_ok()) return;
  Result<TokenizerSpec> spec = parse_tokenizer_spec(*document, "input");
  if (!spec.is_ok()) {
    CHECK(spec.status().message().starts_with("input: "));
    return;
  }
  const Result<Tokenizer> tokenizer = Tokenizer::create(*spec, {}, "input");
  if (!tokenizer.is_ok()) {
    CHECK(tokenizer.status().message().starts_with("input: "));
    return;
  }
  for (const std::string_view text : {"", "hello <s> world's 123\n", "e\u0301 日本\u3000a"}) {
    const Result<std::vector<int>> ids = tokenizer->encode(text);
    if (!ids.is_ok()) continue;
    const Result<std::string> decoded = tokenizer->decode(*ids);
    CHECK(decoded.is_ok() && !find_invalid_utf8(*decoded));
    StreamDecoder decoder(*tokenizer);
    std::string streamed;
    for (const int id : *ids) streamed += decoder.push(id).value();
    CHECK(streamed + decoder.finish() == *decoded);
  }
}

inline void check_chat_template(std::string_view input) {
  constexpr int64_t kBudget = 1 << 20;
  const Result<Block> block = parse_template(input);
  if (!block.is_ok()) {
    CHECK(!block.status().message().empty());
    return;
  }
  const OrderedJson messages = OrderedJson::parse(
      R"([{"role": "system", "content": "é"}, {"role": "user", "content": null, "n": [1, 2.5]}])");
  TemplateEvaluator::Variables variables;
  variables["messages"] = Value::from_json(messages).value();
  TemplateEvaluator evaluator(std::move(variables), 0, kBudget);
  const Result<std::string> text = evaluator.run(*block);
  CHECK(text.is_ok() ? !find_invalid_utf8(*text) && text->size() <= kBudget
                     : text.status().message().starts_with("line "));
}

}  // namespace wideep::tokenizer
