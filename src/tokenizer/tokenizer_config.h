// What tokenizer_config.json, special_tokens_map.json, generation_config.json and
// chat_template.jinja of a model folder say beside tokenizer.json. All of them are optional.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace wideep::tokenizer {

struct TokenizerConfig {
  std::string path = {};  // of tokenizer_config.json, for errors
  std::optional<std::string> bos_token = std::nullopt;
  std::optional<std::string> eos_token = std::nullopt;
  std::optional<std::string> pad_token = std::nullopt;
  std::optional<std::string> unk_token = std::nullopt;
  // Set where the tokenizer's class is Llama's, which puts them around a text whatever
  // tokenizer.json's post-processor says.
  std::optional<bool> add_bos_token = std::nullopt;
  std::optional<bool> add_eos_token = std::nullopt;
  // Jinja source and the file it is from: chat_template.jinja, else tokenizer_config.json's.
  std::optional<std::string> chat_template = std::nullopt;
  std::string chat_template_path = {};
  // generation_config.json: tokens that end a generation; empty where it does not say.
  std::vector<int> eos_ids = {};
};

Result<TokenizerConfig> read_tokenizer_config(const std::string& folder);

}  // namespace wideep::tokenizer
