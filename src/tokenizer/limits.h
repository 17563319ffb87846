// Bounds on what a tokenizer's files may say.
#pragma once

namespace wideep::tokenizer {

// Tables are indexed by id. Published vocabularies end below 300,000.
inline constexpr int kMaxTokenId = (1 << 20) - 1;

}  // namespace wideep::tokenizer
