// The tokenizer's front door: text to token ids and back, as the tokenizer.json of a Hugging Face
// model folder says. Byte-level BPE, which is what DeepSeek, Qwen and Llama 3 and 4 use.
//
// A Tokenizer is read-only after load(): any number of threads may use one. Chat templates are in
// chat_template.h; the two meet in the caller, who encodes a rendered conversation without special
// tokens (the template writes them itself).
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer_config.h"
#include "tokenizer/tokenizer_spec.h"

namespace wideep::tokenizer {

struct EncodeOptions {
  bool add_special_tokens = true;  // those that the post-processor puts around a text, such as BOS
};

struct DecodeOptions {
  bool skip_special_tokens = false;
};

class Tokenizer {
 public:
  // Reads tokenizer.json and, where they are there, the files of tokenizer_config.h.
  static Result<Tokenizer> load(const std::string& folder);
  // From what the files say; `name` (tokenizer.json's path) opens the errors.
  static Result<Tokenizer> create(TokenizerSpec spec, const TokenizerConfig& config,
                                  const std::string& name);

  // kInvalidInput where `text` is not UTF-8, naming the byte. O(n log n) for the longest word.
  Result<std::vector<int>> encode(std::string_view text, EncodeOptions options = {}) const;

  // kInvalidInput where an id is not a token. Bytes that are not UTF-8 (a token may end within a
  // character) become U+FFFD. For text that arrives token by token see stream_decoder.h.
  Result<std::string> decode(std::span<const int> ids, DecodeOptions options = {}) const;

  // Appends the bytes of one token, which need not be whole characters; none for a special token
  // that is skipped.
  Status append_bytes(int id, DecodeOptions options, std::string& bytes) const;

  // One more than the largest id; the ids below it need not all be tokens.
  int vocab_size() const { return static_cast<int>(tokens_.size()); }
  // In the vocabulary's spelling: byte-level characters, or an added token's content.
  std::optional<int> id_of(std::string_view token) const;
  std::optional<std::string_view> token_of(int id) const;
  bool is_special(int id) const;

  std::optional<int> bos_id() const { return bos_id_; }
  // Tokens that end a generation: generation_config.json's, else tokenizer_config.json's; may be
  // empty.
  const std::vector<int>& eos_ids() const { return eos_ids_; }

 private:
  struct Token {
    bool exists = false;
    bool special = false;
    std::string_view spelling;  // in ids_
    std::string bytes;
  };

  explicit Tokenizer(PreTokenizer pre_tokenizer, Bpe bpe)
      : pre_tokenizer_(std::move(pre_tokenizer)), bpe_(std::move(bpe)) {}

  Status add_token(const std::string& content, int id, std::string bytes, const std::string& name);
  // The special tokens that the configuration names are found in texts, too.
  void add_named_tokens(const TokenizerConfig& config, std::vector<AddedToken>& added) const;
  Status add_added_tokens(const std::vector<AddedToken>& added, const std::string& name);
  // BOS, EOS and what goes around a text.
  Status set_special_ids(const TokenizerSpec& spec, const TokenizerConfig& config,
                         const std::string& name);
  Status encode_text(std::string_view text, struct EncodeScratch& scratch,
                     std::vector<int>& ids) const;

  PreTokenizer pre_tokenizer_;
  Bpe bpe_;
  bool nfc_ = false;
  AddedTokenMatcher raw_added_{{}};         // found in the text as it is
  AddedTokenMatcher normalized_added_{{}};  // found behind the normaliser
  std::unordered_map<std::string, int> ids_;
  std::vector<Token> tokens_;  // [vocab_size]
  std::vector<int> prefix_;
  std::vector<int> suffix_;
  std::optional<int> bos_id_;
  std::vector<int> eos_ids_;
};

}  // namespace wideep::tokenizer
