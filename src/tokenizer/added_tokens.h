// Finds added tokens in a text: at each place the longest one, from left to right.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/split_regex.h"
#include "tokenizer/tokenizer_spec.h"

namespace wideep::tokenizer {

// A part of a text: a token, or what lies between tokens.
struct Segment {
  int id = -1;  // -1: text
  Span span;
};

class AddedTokenMatcher {
 public:
  // Empty contents are never found.
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  bool empty() const { return tokens_.empty(); }

  // Appends the segments of `text`, without empty ones. `text` is well-formed UTF-8.
  // O(bytes + matches of a token's first bytes x its length x log(tokens)).
  void split(std::string_view text, std::vector<Segment>& segments) const;

 private:
  // The longest token that begins at `position`; nullptr where none does.
  const AddedToken* longest_at(std::string_view text, size_t position) const;

  std::vector<AddedToken> tokens_;  // by content
  bool begins_a_token_[256] = {};
};

}  // namespace wideep::tokenizer
