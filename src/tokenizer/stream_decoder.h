// Decodes ids as they arrive: what is given out are whole characters, and together they are what
// decode() makes of all ids at once.
#pragma once

#include <string>

#include "base/status.h"
#include "tokenizer/tokenizer.h"

namespace wideep::tokenizer {

class StreamDecoder {
 public:
  // `tokenizer` outlives the decoder.
  explicit StreamDecoder(const Tokenizer& tokenizer, DecodeOptions options = {})
      : tokenizer_(&tokenizer), options_(options) {}

  // The text that is complete with this token; "" while a character is cut off. Bytes that cannot
  // become a character any more are U+FFFD. An id that is not a token is an error and changes
  // nothing.
  Result<std::string> push(int id);

  // U+FFFD where the last character was never completed, else "". Then begins anew.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  DecodeOptions options_;
  std::string pending_;  // at most 3 bytes: the start of a character
};

}  // namespace wideep::tokenizer
