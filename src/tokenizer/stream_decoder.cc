#include "tokenizer/stream_decoder.h"

#include <utility>

#include "tokenizer/utf8.h"

namespace wideep::tokenizer {

Result<std::string> StreamDecoder::push(int id) {
  RETURN_IF_ERROR(tokenizer_->append_bytes(id, options_, pending_));
  std::string text;
  pending_.erase(0, append_lossy(pending_, text));
  return text;
}

std::string StreamDecoder::finish() {
  return std::exchange(pending_, {}).empty() ? std::string() : std::string(kReplacementCharacter);
}

}  // namespace wideep::tokenizer
