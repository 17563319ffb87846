// The regular expressions of tokenizer.json's Split steps, run by PCRE2. They are written for
// Oniguruma (Ruby syntax); compile() rewrites what the two read differently and refuses what it
// cannot: no pattern is silently matched by other rules.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

struct pcre2_real_code_8;
struct pcre2_real_match_data_8;
struct pcre2_real_match_context_8;

namespace wideep::tokenizer {

// Bytes [begin, end) of a text.
struct Span {
  size_t begin = 0;
  size_t end = 0;

  size_t size() const { return end - begin; }
  bool operator==(const Span&) const = default;
};

// What one thread needs while it matches: made once per call of encode().
class MatchScratch {
 public:
  MatchScratch();

 private:
  friend class SplitRegex;
  struct Free {
    void operator()(pcre2_real_match_data_8* data) const;
  };
  std::unique_ptr<pcre2_real_match_data_8, Free> data_;
};

class SplitRegex {
 public:
  // A pattern of Oniguruma's Ruby syntax: characters, escapes, classes, groups, lookaround,
  // quantifiers. An error says what in it is not supported.
  static Result<SplitRegex> compile(std::string_view pattern);
  // The text itself, every character literal.
  static Result<SplitRegex> literal(std::string_view text);

  // Appends all matches in order, not overlapping, to `matches`. An empty match right behind a
  // match is left out. `text` is well-formed UTF-8. A pattern that backtracks too much is an error.
  Status find_all(std::string_view text, MatchScratch& scratch, std::vector<Span>& matches) const;

 private:
  struct Free {
    void operator()(pcre2_real_code_8* code) const;
    void operator()(pcre2_real_match_context_8* context) const;
  };

  SplitRegex() = default;
  static Result<SplitRegex> compile_pcre2(const std::string& pattern, uint32_t options);
  // The first match at or after `start`; false where there is none.
  Result<bool> find(std::string_view text, size_t start, MatchScratch& scratch, Span& match) const;

  std::unique_ptr<pcre2_real_code_8, Free> code_;
  std::unique_ptr<pcre2_real_match_context_8, Free>
      context_;  // its limits; only read after compile
  bool jit_ = false;
};

// The pattern as PCRE2 reads it (options UTF, UCP and MULTILINE). Exposed for tests.
Result<std::string> oniguruma_to_pcre2(std::string_view pattern);

}  // namespace wideep::tokenizer
