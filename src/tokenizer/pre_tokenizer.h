// Cuts a text into the words that BPE works on: the Split steps of tokenizer.json, then ByteLevel.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tokenizer/split_regex.h"
#include "tokenizer/tokenizer_spec.h"

namespace wideep::tokenizer {

class PreTokenizer {
 public:
  // Buffers of one thread, kept over the calls of split().
  struct Scratch {
    MatchScratch match;
    std::vector<Span> pieces;
    std::vector<Span> next;
    std::vector<Span> matches;
    std::string prefixed;
  };

  // `name` (the file) opens errors of patterns that do not compile.
  static Result<PreTokenizer> create(const PreTokenizerSpec& spec, const std::string& name);

  // Calls word(std::string_view) -> Status for each word of `text` (well-formed UTF-8) in order.
  template <typename Word>
  Status split(std::string_view text, Scratch& scratch, const Word& word) const {
    RETURN_IF_ERROR(split_text(text, scratch));
    if (!add_prefix_space_) {
      for (const Span& piece : scratch.pieces) {
        RETURN_IF_ERROR(word(text.substr(piece.begin, piece.size())));
      }
      return Status::ok();
    }
    const std::vector<Span> pieces = scratch.pieces;
    for (const Span& piece : pieces) {
      RETURN_IF_ERROR(prefix_and_split(text.substr(piece.begin, piece.size()), scratch));
      for (const Span& part : scratch.pieces) {
        RETURN_IF_ERROR(word(std::string_view(scratch.prefixed).substr(part.begin, part.size())));
      }
    }
    return Status::ok();
  }

 private:
  struct Step {
    SplitRegex regex;
    SplitBehavior behavior;
    bool invert;
    std::string place;  // file and JSON path, for errors
  };

  // scratch.pieces = what the steps make of the text.
  Status split_text(std::string_view text, Scratch& scratch) const;
  // The same for one piece behind a space, in scratch.prefixed: what ByteLevel does to it.
  Status prefix_and_split(std::string_view piece, Scratch& scratch) const;
  static Status apply(const Step& step, std::string_view text, Scratch& scratch);

  std::vector<Step> steps_;
  // GPT-2's pattern where it follows a prefix space; without one it is the last of steps_.
  std::optional<Step> behind_prefix_;
  bool add_prefix_space_ = false;
};

// Cuts [0, size) at the matches and appends the pieces, without empty ones. Exposed for tests.
void split_at_matches(size_t size, const std::vector<Span>& matches, SplitBehavior behavior,
                      bool invert, size_t offset, std::vector<Span>& pieces);

}  // namespace wideep::tokenizer
