// tokenizer.json as plain data: what of Hugging Face's format a byte-level BPE tokenizer needs,
// read and checked, before anything is compiled from it.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace wideep::tokenizer {

// A token that is found in the text before it is split into words.
struct AddedToken {
  int id = 0;
  std::string content = {};
  bool special = false;      // control token: left out of decoded text on request
  bool single_word = false;  // only where no word character is beside it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // and behind it
  bool normalized = false;   // looked for in the normalised text
};

// What becomes of a match of a Split step.
enum class SplitBehavior {
  kIsolated,            // a piece of its own
  kRemoved,             // dropped
  kMergedWithPrevious,  // joined to the piece before it
  kMergedWithNext,      // and behind it
  kContiguous,          // neighbouring matches are one piece
};

struct SplitSpec {
  std::string pattern = {};
  bool is_regex = true;  // false: the characters themselves
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;    // what does not match is the match
  std::string path = {};  // in the JSON document, for errors
};

struct PreTokenizerSpec {
  std::vector<SplitSpec> splits = {};  // one after the other, then:
  bool add_prefix_space = false;       // each piece begins with a space
  bool use_regex = false;              // and is cut by GPT-2's pattern
};

struct BpeSpec {
  std::vector<std::pair<std::string, int>> vocab = {};           // byte-level spelling, id
  std::vector<std::pair<std::string, std::string>> merges = {};  // first: highest priority
  std::optional<std::string> unk_token = std::nullopt;
  bool fuse_unk = false;       // neighbouring unknown bytes are one unk_token
  bool ignore_merges = false;  // a word that is a token is not merged up
};

struct TokenizerSpec {
  std::vector<AddedToken> added_tokens;
  bool nfc = false;
  PreTokenizerSpec pre_tokenizer;
  BpeSpec bpe;
  // Special tokens around every text: ids.
  std::vector<int> prefix;
  std::vector<int> suffix;
};

// Reads a parsed tokenizer.json; `name` (its path) opens every error, the JSON path follows.
Result<TokenizerSpec> parse_tokenizer_spec(const Json& document, const std::string& name);

}  // namespace wideep::tokenizer
