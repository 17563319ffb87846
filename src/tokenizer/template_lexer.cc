#include "tokenizer/template_lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "tokenizer/utf8.h"

namespace wideep::tokenizer {
namespace {

using Kind = TemplateTokenKind;

constexpr size_t kMaxSourceBytes = 1 << 20;

bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

bool is_ascii_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

// Line ends as "\n"; one at the very end does not count.
std::string normalize_lines(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      text += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      text += source[i];
    }
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  Result<std::vector<TemplateToken>> run() {
    while (position_ < source_.size()) {
      const size_t tag = find_tag();
      const std::string_view opening = std::string_view(source_).substr(tag, 2);
      std::string_view text = std::string_view(source_).substr(position_, tag - position_);
      const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
      text = text.substr(0, kept_size(text, opening, sign));
      if (!text.empty()) add(Kind::kText, std::string(text));
      advance(tag);
      if (opening.empty()) break;
      if (opening == "{#") {
        RETURN_IF_ERROR(skip_comment());
        continue;
      }
      const bool is_output = opening == "{{";
      add(is_output ? Kind::kOutputBegin : Kind::kBlockBegin, std::string(opening));
      advance(tag + 2 + (sign == '-' || sign == '+' ? 1 : 0));
      RETURN_IF_ERROR(read_tag(is_output));
    }
    add(Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  void add(Kind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }

  // Moves on and counts lines.
  void advance(size_t position) {
    line_ +=
        static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(position_),
                                    source_.begin() + static_cast<std::ptrdiff_t>(position), '\n'));
    position_ = position;
  }

  size_t find_tag() const {
    for (size_t i = position_; (i = source_.find('{', i)) != std::string::npos; ++i) {
      const char next = i + 1 < source_.size() ? source_[i + 1] : '\0';
      if (next == '{' || next == '%' || next == '#') return i;
    }
    return source_.size();
  }

  // How much of the text before a tag stays: "-" takes all white space at its end; a block or
  // comment that begins a line takes the indentation before it.
  size_t kept_size(std::string_view text, std::string_view opening, char sign) const {
    const auto last_not_space = [&](size_t from) {
      size_t end = text.size();
      while (end > from && is_ascii_space(text[end - 1])) --end;
      return end;
    };
    if (opening.empty()) return text.size();
    if (sign == '-') return last_not_space(0);
    if (sign == '+' || opening == "{{") return text.size();
    const size_t line_start = text.rfind('\n') + 1;  // 0 where there is none
    if (line_start == 0 && !at_line_start_) return text.size();
    return last_not_space(line_start) == line_start ? line_start : text.size();
  }

  // Moves behind a tag's end: "-" takes all white space behind it; else a block or comment takes
  // one line end.
  void finish_tag(size_t end, bool strip, bool trim_line_end) {
    if (strip) {
      while (end < source_.size() && is_ascii_space(source_[end])) ++end;
    } else if (trim_line_end && end < source_.size() && source_[end] == '\n') {
      ++end;
    }
    advance(end);
    at_line_start_ = source_[end - 1] == '\n';
  }

  Status skip_comment() {
    const size_t end = source_.find("#}", position_ + 2);
    if (end == std::string::npos) return template_error(line_, "a comment without #}");
    const char sign = end > position_ + 2 ? source_[end - 1] : '\0';
    finish_tag(end + 2, sign == '-', sign != '+');
    return Status::ok();
  }

  bool starts_with(std::string_view text) const {
    return std::string_view(source_).substr(position_).starts_with(text);
  }

  // The tag's end, if it is here.
  bool read_end(bool is_output) {
    const std::string_view closing = is_output ? "}}" : "%}";
    const bool strip = starts_with("-") && source_.compare(position_ + 1, 2, closing) == 0;
    const bool keep =
        !is_output && starts_with("+") && source_.compare(position_ + 1, 2, closing) == 0;
    if (!strip && !keep && !starts_with(closing)) return false;
    add(is_output ? Kind::kOutputEnd : Kind::kBlockEnd, std::string(closing));
    finish_tag(position_ + (strip || keep ? 3 : 2), strip, !is_output && !keep);
    return true;
  }

  Status read_tag(bool is_output) {
    const int first_line = line_;
    std::string brackets;  // open ones: "}}" may close two maps
    while (position_ < source_.size()) {
      const char c = source_[position_];
      if (is_ascii_space(c)) {
        advance(position_ + 1);
      } else if (brackets.empty() && read_end(is_output)) {
        return Status::ok();
      } else if (is_name_start(c)) {
        read_name();
      } else if (is_digit(c)) {
        RETURN_IF_ERROR(read_number());
      } else if (c == '"' || c == '\'') {
        RETURN_IF_ERROR(read_string(c));
      } else {
        RETURN_IF_ERROR(read_operator(brackets));
      }
    }
    return template_error(first_line, is_output ? "{{ without }}" : "{% without %}");
  }

  void read_name() {
    size_t end = position_;
    while (end < source_.size() && (is_name_start(source_[end]) || is_digit(source_[end]))) ++end;
    add(Kind::kName, source_.substr(position_, end - position_));
    advance(end);
  }

  Status read_number() {
    std::string digits;
    size_t end = position_;
    bool is_float = false;
    const auto take_digits = [&] {
      while (end < source_.size() && (is_digit(source_[end]) || source_[end] == '_')) {
        if (source_[end] != '_') digits += source_[end];
        ++end;
      }
    };
    take_digits();
    if (end + 1 < source_.size() && source_[end] == '.' && is_digit(source_[end + 1])) {
      is_float = true;
      digits += source_[end++];
      take_digits();
    }
    size_t exponent = end + 1;
    if (exponent < source_.size() && (source_[exponent] == '-' || source_[exponent] == '+')) {
      ++exponent;
    }
    if (exponent < source_.size() && (source_[end] == 'e' || source_[end] == 'E') &&
        is_digit(source_[exponent])) {
      is_float = true;
      // parse_double() knows no plus.
      digits += source_[end + 1] == '-' ? "e-" : "e";
      end = exponent;
      take_digits();
    }
    if (end < source_.size() && is_name_start(source_[end])) {
      return template_error(line_, "a number with letters is not supported");
    }
    add(is_float ? Kind::kFloat : Kind::kInteger, digits);
    advance(end);
    return Status::ok();
  }

  Status read_string(char quote) {
    std::string text;
    size_t i = position_ + 1;
    while (i < source_.size() && source_[i] != quote) {
      if (source_[i] != '\\') {
        text += source_[i++];
      } else {
        RETURN_IF_ERROR(read_escape(i, text));
      }
    }
    if (i >= source_.size()) return template_error(line_, "a string without its closing quote");
    add(Kind::kString, std::move(text));
    advance(i + 1);
    return Status::ok();
  }

  // Python's escapes; what is none keeps its backslash.
  Status read_escape(size_t& i, std::string& text) const {
    if (i + 1 >= source_.size()) return template_error(line_, "a string without its closing quote");
    const char c = source_[i + 1];
    static constexpr std::string_view kLetters = "ntr\\'\"abfv";
    static constexpr std::string_view kValues = "\n\t\r\\'\"\a\b\f\v";
    if (const size_t known = kLetters.find(c); known != std::string_view::npos) {
      text += kValues[known];
      i += 2;
      return Status::ok();
    }
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits == 0) {
      if (is_digit(c)) return template_error(line_, "an octal escape is not supported");
      text += '\\';
      ++i;
      return Status::ok();
    }
    char32_t code_point = 0;
    for (size_t k = i + 2; k < i + 2 + digits; ++k) {
      const std::string_view hex = "0123456789abcdef";
      const size_t digit =
          k < source_.size() ? hex.find(static_cast<char>(std::tolower(source_[k]))) : hex.npos;
      if (digit == hex.npos) return template_error(line_, "an escape with too few digits");
      code_point = code_point * 16 + static_cast<char32_t>(digit);
    }
    if (code_point > 0x10FFFF || (code_point >= 0xD800 && code_point < 0xE000)) {
      return template_error(line_, "an escape that is no character");
    }
    append_code_point(text, code_point);
    i += 2 + digits;
    return Status::ok();
  }

  Status read_operator(std::string& brackets) {
    static constexpr std::array<std::string_view, 26> kOperators = {
        "**", "//", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "(",
        ")",  "[",  "]",  "{",  "}",  "<",  ">", "=", ".", ",", ":", "|", ";"};
    const auto* found = std::ranges::find_if(
        kOperators, [&](std::string_view known) { return starts_with(known); });
    if (found == kOperators.end()) {
      size_t end = position_;
      static_cast<void>(next_code_point(source_, end));
      return template_error(
          line_, fmt::format("unexpected \"{}\"", source_.substr(position_, end - position_)));
    }
    static constexpr std::string_view kOpen = "([{";
    static constexpr std::string_view kClose = ")]}";
    const char c = (*found)[0];
    if (kOpen.find(c) != std::string_view::npos) brackets += c;
    if (const size_t kind = kClose.find(c); kind != std::string_view::npos) {
      if (brackets.empty() || brackets.back() != kOpen[kind]) {
        return template_error(line_, fmt::format("\"{}\" closes nothing", c));
      }
      brackets.pop_back();
    }
    add(Kind::kOperator, std::string(*found));
    advance(position_ + found->size());
    return Status::ok();
  }

  std::string source_;
  size_t position_ = 0;
  int line_ = 1;
  bool at_line_start_ = true;  // the last tag ended with a line end
  std::vector<TemplateToken> tokens_;
};

}  // namespace

Status template_error(int line, std::string_view what) {
  return Status::invalid_input(fmt::format("line {}: {}", line, what));
}

Result<std::vector<TemplateToken>> tokenize_template(std::string_view source) {
  if (source.size() > kMaxSourceBytes) {
    return Status::invalid_input(
        fmt::format("a template of {} bytes: {} at most", source.size(), kMaxSourceBytes));
  }
  if (const auto invalid = find_invalid_utf8(source)) {
    return Status::invalid_input(fmt::format("not UTF-8 at byte {}", *invalid));
  }
  return Lexer(normalize_lines(source)).run();
}

}  // namespace wideep::tokenizer
