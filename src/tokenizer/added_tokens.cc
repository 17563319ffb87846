#include "tokenizer/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>

#include "tokenizer/utf8.h"

namespace wideep::tokenizer {
namespace {

// The start of the character that ends at `end` > 0.
size_t previous_character(std::string_view text, size_t end) {
  do {
    --end;
  } while (end > 0 && (text[end] & 0xC0) == 0x80);
  return end;
}

// \w: letters, marks, decimal and letter numbers, connectors.
bool is_word_character(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

bool word_before(std::string_view text, size_t position) {
  if (position == 0) return false;
  size_t start = previous_character(text, position);
  return is_word_character(next_code_point(text, start));
}

bool word_behind(std::string_view text, size_t position) {
  return position < text.size() && is_word_character(next_code_point(text, position));
}

// Where the white space that ends at `position` begins; not before `floor`.
size_t skip_space_before(std::string_view text, size_t position, size_t floor) {
  while (position > floor) {
    const size_t start = previous_character(text, position);
    size_t next = start;
    if (!is_white_space(next_code_point(text, next))) break;
    position = start;
  }
  return std::max(position, floor);
}

size_t skip_space_behind(std::string_view text, size_t position) {
  while (position < text.size()) {
    size_t next = position;
    if (!is_white_space(next_code_point(text, next))) break;
    position = next;
  }
  return position;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::erase_if(tokens_, [](const AddedToken& token) { return token.content.empty(); });
  std::ranges::sort(tokens_, {}, &AddedToken::content);
  for (const AddedToken& token : tokens_) {
    begins_a_token_[static_cast<unsigned char>(token.content[0])] = true;
  }
}

const AddedToken* AddedTokenMatcher::longest_at(std::string_view text, size_t position) const {
  // Tokens that agree with the text in their first `depth` bytes lie side by side, the one of just
  // that length first.
  auto begin = tokens_.begin();
  auto end = tokens_.end();
  const AddedToken* longest = nullptr;
  for (size_t depth = 0; begin != end && position + depth < text.size(); ++depth) {
    const auto byte_of = [depth](const AddedToken& token) {
      return static_cast<unsigned char>(token.content[depth]);
    };
    const auto byte = static_cast<unsigned char>(text[position + depth]);
    begin = std::partition_point(begin, end,
                                 [&](const AddedToken& token) { return byte_of(token) < byte; });
    end = std::partition_point(begin, end,
                               [&](const AddedToken& token) { return byte_of(token) == byte; });
    if (begin != end && begin->content.size() == depth + 1) longest = &*begin++;
  }
  return longest;
}

void AddedTokenMatcher::split(std::string_view text, std::vector<Segment>& segments) const {
  size_t text_start = 0;
  size_t position = 0;
  while (position < text.size()) {
    const bool candidate = begins_a_token_[static_cast<unsigned char>(text[position])];
    const AddedToken* token = candidate ? longest_at(text, position) : nullptr;
    if (token == nullptr) {
      ++position;
      continue;
    }
    Span match{position, position + token->content.size()};
    position = match.end;
    if (token->single_word && (word_before(text, match.begin) || word_behind(text, match.end))) {
      continue;
    }
    if (token->lstrip) match.begin = skip_space_before(text, match.begin, text_start);
    if (token->rstrip) match.end = skip_space_behind(text, match.end);
    if (text_start < match.begin) segments.push_back({-1, {text_start, match.begin}});
    segments.push_back({token->id, match});
    text_start = match.end;
    position = match.end;
  }
  if (text_start < text.size()) segments.push_back({-1, {text_start, text.size()}});
}

}  // namespace wideep::tokenizer
