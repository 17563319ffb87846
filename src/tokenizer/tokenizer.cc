#include "tokenizer/tokenizer.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "base/file.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/utf8.h"

namespace wideep::tokenizer {

// Buffers of one call of encode().
struct EncodeScratch {
  PreTokenizer::Scratch split;
  Bpe::Scratch bpe;
};

namespace {

// Canonical composition. Text below U+0300 is composed already.
Result<std::string> to_nfc(std::string_view text) {
  const bool may_change =
      std::ranges::any_of(text, [](char c) { return static_cast<unsigned char>(c) >= 0xCC; });
  if (!may_change) return std::string(text);
  utf8proc_uint8_t* composed = nullptr;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &composed, options);
  const std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> owner(composed, std::free);
  if (size < 0) {
    return Status::invalid_input(fmt::format("NFC: {}", utf8proc_errmsg(size)));
  }
  return std::string(reinterpret_cast<const char*>(composed), static_cast<size_t>(size));
}

}  // namespace

Result<Tokenizer> Tokenizer::load(const std::string& folder) {
  const std::string path = join_path(folder, "tokenizer.json");
  ASSIGN_OR_RETURN(const Json document, read_json(path));
  ASSIGN_OR_RETURN(TokenizerSpec spec, parse_tokenizer_spec(document, path));
  ASSIGN_OR_RETURN(const TokenizerConfig config, read_tokenizer_config(folder));
  return create(std::move(spec), config, path);
}

Result<Tokenizer> Tokenizer::create(TokenizerSpec spec, const TokenizerConfig& config,
                                    const std::string& name) {
  ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer, PreTokenizer::create(spec.pre_tokenizer, name));
  ASSIGN_OR_RETURN(Bpe bpe, Bpe::create(spec.bpe, name));
  Tokenizer tokenizer(std::move(pre_tokenizer), std::move(bpe));
  tokenizer.nfc_ = spec.nfc;
  for (const auto& [token, id] : spec.bpe.vocab) {
    // A token with characters beyond the byte-level alphabet stands for itself.
    RETURN_IF_ERROR(tokenizer.add_token(token, id, byte_level_bytes(token).value_or(token), name));
  }
  tokenizer.add_named_tokens(config, spec.added_tokens);
  RETURN_IF_ERROR(tokenizer.add_added_tokens(spec.added_tokens, name));
  RETURN_IF_ERROR(tokenizer.set_special_ids(spec, config, name));
  return tokenizer;
}

Status Tokenizer::add_token(const std::string& content, int id, std::string bytes,
                            const std::string& name) {
  if (id >= vocab_size()) tokens_.resize(id + 1);
  const auto [entry, added] = ids_.emplace(content, id);
  Token& token = tokens_[id];
  if (entry->second != id || (token.exists && token.spelling != content)) {
    return Status::invalid_input(
        fmt::format("{}: added_tokens: \"{}\" has id {}, but {}", name, content, id,
                    entry->second != id ? fmt::format("it has id {} elsewhere", entry->second)
                                        : fmt::format("that is the id of \"{}\"", token.spelling)));
  }
  token.exists = true;
  token.spelling = entry->first;
  token.bytes = std::move(bytes);
  return Status::ok();
}

void Tokenizer::add_named_tokens(const TokenizerConfig& config,
                                 std::vector<AddedToken>& added) const {
  for (const auto& name : {config.bos_token, config.eos_token, config.pad_token}) {
    if (!name) continue;
    const auto known = std::ranges::find(added, *name, &AddedToken::content);
    if (known != added.end()) {
      known->special = true;
    } else if (const std::optional<int> id = id_of(*name)) {
      added.push_back({.id = *id, .content = *name, .special = true});
    }
  }
}

Status Tokenizer::add_added_tokens(const std::vector<AddedToken>& added, const std::string& name) {
  std::vector<AddedToken> raw;
  std::vector<AddedToken> normalized;
  for (AddedToken token : added) {
    // What encode() finds literally is decoded literally, also where its characters are of the
    // byte-level alphabet.
    RETURN_IF_ERROR(add_token(token.content, token.id, token.content, name));
    tokens_[token.id].special = token.special;
    if (!token.normalized) {
      raw.push_back(std::move(token));
      continue;
    }
    if (nfc_) {
      ASSIGN_OR_RETURN(token.content, to_nfc(token.content));
    }
    normalized.push_back(std::move(token));
  }
  raw_added_ = AddedTokenMatcher(std::move(raw));
  normalized_added_ = AddedTokenMatcher(std::move(normalized));
  return Status::ok();
}

Status Tokenizer::set_special_ids(const TokenizerSpec& spec, const TokenizerConfig& config,
                                  const std::string& name) {
  const auto find = [&](const char* key, const std::optional<std::string>& token,
                        std::optional<int>& id) -> Status {
    if (!token) return Status::ok();
    id = id_of(*token);
    if (id) return Status::ok();
    return Status::invalid_input(
        fmt::format("{}: {}: \"{}\" is not a token of {}", config.path, key, *token, name));
  };
  std::optional<int> eos;
  RETURN_IF_ERROR(find("bos_token", config.bos_token, bos_id_));
  RETURN_IF_ERROR(find("eos_token", config.eos_token, eos));
  eos_ids_ = config.eos_ids;
  if (eos_ids_.empty() && eos) eos_ids_ = {*eos};

  prefix_ = spec.prefix;
  suffix_ = spec.suffix;
  if (config.add_bos_token) {
    if (*config.add_bos_token && !bos_id_) {
      return Status::invalid_input(config.path + ": add_bos_token: there is no bos_token");
    }
    prefix_ = *config.add_bos_token ? std::vector<int>{*bos_id_} : std::vector<int>{};
  }
  if (config.add_eos_token) {
    if (*config.add_eos_token && !eos) {
      return Status::invalid_input(config.path + ": add_eos_token: there is no eos_token");
    }
    suffix_ = *config.add_eos_token ? std::vector<int>{*eos} : std::vector<int>{};
  }
  for (const std::vector<int>* around : {&prefix_, &suffix_}) {
    for (const int id : *around) {
      if (token_of(id)) continue;
      return Status::invalid_input(
          fmt::format("{}: post_processor: id {} is not a token", name, id));
    }
  }
  return Status::ok();
}

Status Tokenizer::encode_text(std::string_view text, EncodeScratch& scratch,
                              std::vector<int>& ids) const {
  return pre_tokenizer_.split(text, scratch.split, [&](std::string_view word) {
    return bpe_.encode(word, scratch.bpe, ids);
  });
}

Result<std::vector<int>> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  if (const auto invalid = find_invalid_utf8(text)) {
    return Status::invalid_input(fmt::format("the text is not UTF-8 at byte {} of {} (0x{:02X})",
                                             *invalid, text.size(),
                                             static_cast<unsigned char>(text[*invalid])));
  }
  std::vector<int> ids;
  if (options.add_special_tokens) ids = prefix_;
  EncodeScratch scratch;
  std::vector<Segment> segments;
  raw_added_.split(text, segments);
  std::vector<Segment> parts;
  for (const Segment& segment : segments) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
      continue;
    }
    std::string_view raw = text.substr(segment.span.begin, segment.span.size());
    std::string normalized;
    if (nfc_) {
      ASSIGN_OR_RETURN(normalized, to_nfc(raw));
      raw = normalized;
    }
    parts.clear();
    normalized_added_.split(raw, parts);
    for (const Segment& part : parts) {
      if (part.id >= 0) {
        ids.push_back(part.id);
        continue;
      }
      RETURN_IF_ERROR(encode_text(raw.substr(part.span.begin, part.span.size()), scratch, ids));
    }
  }
  if (options.add_special_tokens) ids.insert(ids.end(), suffix_.begin(), suffix_.end());
  return ids;
}

Status Tokenizer::append_bytes(int id, DecodeOptions options, std::string& bytes) const {
  if (!token_of(id)) {
    return Status::invalid_input(
        fmt::format("id {} is not a token: the vocabulary has {}", id, vocab_size()));
  }
  const Token& token = tokens_[id];
  if (!(token.special && options.skip_special_tokens)) bytes += token.bytes;
  return Status::ok();
}

Result<std::string> Tokenizer::decode(std::span<const int> ids, DecodeOptions options) const {
  std::string bytes;
  for (const int id : ids) RETURN_IF_ERROR(append_bytes(id, options, bytes));
  std::string text;
  text.reserve(bytes.size());
  if (append_lossy(bytes, text) < bytes.size()) text += kReplacementCharacter;
  return text;
}

std::optional<int> Tokenizer::id_of(std::string_view token) const {
  const auto found = ids_.find(std::string(token));
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<std::string_view> Tokenizer::token_of(int id) const {
  if (id < 0 || id >= vocab_size() || !tokens_[id].exists) return std::nullopt;
  return tokens_[id].spelling;
}

bool Tokenizer::is_special(int id) const {
  return token_of(id).has_value() && tokens_[id].special;
}

}  // namespace wideep::tokenizer
