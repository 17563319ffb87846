#include "tokenizer/split_regex.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace wideep::tokenizer {
namespace {

// PCRE2 counts the steps of one search. A search may walk the whole text once or a few times (a run
// of spaces is walked forth and back), so the limit grows with it; a pattern that backtracks
// exponentially still ends within a second.
constexpr uint32_t kBaseMatchLimit = 2'000'000;
// Memory of one search, for the interpreter, in KiB.
constexpr uint32_t kHeapLimitKib = 64 * 1024;
constexpr size_t kMaxPatternBytes = 64 * 1024;

std::string pcre2_message(int code) {
  unsigned char buffer[256];
  pcre2_get_error_message(code, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

PCRE2_SPTR pcre2_text(std::string_view text) {
  return reinterpret_cast<PCRE2_SPTR>(text.data());
}

}  // namespace

void MatchScratch::Free::operator()(pcre2_match_data* data) const {
  pcre2_match_data_free(data);
}

MatchScratch::MatchScratch() : data_(pcre2_match_data_create(1, nullptr)) {
  CHECK(data_ != nullptr);
}

void SplitRegex::Free::operator()(pcre2_code* code) const {
  pcre2_code_free(code);
}

void SplitRegex::Free::operator()(pcre2_match_context* context) const {
  pcre2_match_context_free(context);
}

Result<SplitRegex> SplitRegex::compile(std::string_view pattern) {
  ASSIGN_OR_RETURN(const std::string translated, oniguruma_to_pcre2(pattern));
  return compile_pcre2(translated, PCRE2_UCP | PCRE2_MULTILINE);
}

Result<SplitRegex> SplitRegex::literal(std::string_view text) {
  return compile_pcre2(std::string(text), PCRE2_LITERAL);
}

Result<SplitRegex> SplitRegex::compile_pcre2(const std::string& pattern, uint32_t options) {
  if (pattern.size() > kMaxPatternBytes) {
    return Status::invalid_input(
        fmt::format("a pattern of {} bytes: {} at most", pattern.size(), kMaxPatternBytes));
  }
  const std::unique_ptr<pcre2_compile_context, void (*)(pcre2_compile_context*)> how(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  CHECK(how != nullptr);
  pcre2_set_newline(how.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  size_t offset = 0;
  SplitRegex regex;
  regex.code_.reset(pcre2_compile(pcre2_text(pattern), pattern.size(), options | PCRE2_UTF, &error,
                                  &offset, how.get()));
  if (regex.code_ == nullptr) return Status::invalid_input(pcre2_message(error));
  // Where the system forbids JIT code, matching is slower and otherwise the same.
  regex.jit_ = pcre2_jit_compile(regex.code_.get(), PCRE2_JIT_COMPLETE) == 0;
  regex.context_.reset(pcre2_match_context_create(nullptr));
  CHECK(regex.context_ != nullptr);
  pcre2_set_match_limit(regex.context_.get(), kBaseMatchLimit);
  pcre2_set_heap_limit(regex.context_.get(), kHeapLimitKib);
  return regex;
}

Result<bool> SplitRegex::find(std::string_view text, size_t start, MatchScratch& scratch,
                              Span& match) const {
  pcre2_match_data* data = scratch.data_.get();
  const auto search = [&](auto* matcher, uint32_t options, pcre2_match_context* context) {
    return matcher(code_.get(), pcre2_text(text), text.size(), start, options, data, context);
  };
  int outcome = jit_ ? search(pcre2_jit_match, 0, context_.get())
                     : search(pcre2_match, PCRE2_NO_UTF_CHECK, context_.get());
  if (outcome == PCRE2_ERROR_JIT_STACKLIMIT) {  // the interpreter takes its memory from the heap
    outcome = search(pcre2_match, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, context_.get());
  }
  if (outcome == PCRE2_ERROR_MATCHLIMIT && text.size() > kBaseMatchLimit / 64) {
    const std::unique_ptr<pcre2_match_context, Free> larger(
        pcre2_match_context_copy(context_.get()));
    CHECK(larger != nullptr);
    pcre2_set_match_limit(larger.get(),
                          static_cast<uint32_t>(std::min<size_t>(
                              text.size() * 64, std::numeric_limits<uint32_t>::max())));
    outcome = search(pcre2_match, PCRE2_NO_UTF_CHECK, larger.get());
  }
  if (outcome == PCRE2_ERROR_NOMATCH) return false;
  // 0: the pattern has groups, for which there is no room in `data` by intention.
  if (outcome < 0) {
    return Status::invalid_input(
        fmt::format("the search from byte {} failed: {}", start, pcre2_message(outcome)));
  }
  const size_t* ends = pcre2_get_ovector_pointer(data);
  match = {ends[0], ends[1]};
  return true;
}

Status SplitRegex::find_all(std::string_view text, MatchScratch& scratch,
                            std::vector<Span>& matches) const {
  size_t start = 0;
  size_t last_end = text.size() + 1;  // no match yet
  while (start <= text.size()) {
    Span match;
    ASSIGN_OR_RETURN(const bool found, find(text, start, scratch, match));
    if (!found) break;
    if (match.size() == 0 && match.end == last_end) {
      // Try again one character on.
      do {
        ++start;
      } while (start < text.size() && (text[start] & 0xC0) == 0x80);
      continue;
    }
    matches.push_back(match);
    start = match.end;
    last_end = match.end;
  }
  return Status::ok();
}

}  // namespace wideep::tokenizer
