// oniguruma_to_pcre2: a pass over the pattern that copies what both engines read alike.
#include <fmt/format.h>

#include <array>

#include "base/text.h"
#include "tokenizer/split_regex.h"
#include "tokenizer/utf8.h"

namespace wideep::tokenizer {
namespace {

// What Oniguruma's classes hold, as items of a PCRE2 class. PCRE2's own \s has U+180E too, its \w
// lacks marks and other connectors than '_', its \h is white space.
constexpr std::string_view kSpaceItems = R"(\p{Z}\x{09}-\x{0D}\x{85})";
constexpr std::string_view kWordItems = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
constexpr std::string_view kHexItems = "0-9a-fA-F";

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  Result<std::string> run() {
    while (!at_end()) {
      switch (peek()) {
        case '\\':
          RETURN_IF_ERROR(escape(/*in_class=*/false));
          break;
        case '[':
          RETURN_IF_ERROR(character_class());
          break;
        case '(':
          RETURN_IF_ERROR(group());
          break;
        case '{':
          RETURN_IF_ERROR(interval());
          break;
        default:
          out_ += take();
      }
    }
    return std::move(out_);
  }

 private:
  bool at_end() const { return position_ == pattern_.size(); }
  char peek() const { return at_end() ? '\0' : pattern_[position_]; }
  char take() { return pattern_[position_++]; }
  bool skip(std::string_view text) {
    if (!pattern_.substr(position_).starts_with(text)) return false;
    position_ += text.size();
    return true;
  }

  Status unsupported(std::string_view what) const {
    return Status::invalid_input(
        fmt::format("{} at byte {} of the pattern is not supported", what, position_));
  }

  // A shorthand for a set: its items inside a class, a class of its own outside.
  Status set(std::string_view items, bool negated, bool in_class, std::string_view name) {
    if (!in_class) {
      out_ += fmt::format("[{}{}]", negated ? "^" : "", items);
    } else if (!negated) {
      out_ += items;
    } else {
      return unsupported(fmt::format("{} in a class", name));
    }
    return Status::ok();
  }

  // \p{Name}, \P{Name}, \p{^Name}.
  Status property() {
    const size_t end = pattern_.find('}', position_);
    if (peek() != '{' || end == std::string_view::npos) return unsupported("\\p without {Name}");
    out_ += pattern_.substr(position_ - 2, end + 1 - (position_ - 2));
    position_ = end + 1;
    return Status::ok();
  }

  // \uHHHH, which PCRE2 spells \x{HHHH}.
  Status unicode_escape() {
    const std::string_view digits = pattern_.substr(position_, 4);
    if (digits.size() < 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != digits.npos) {
      return unsupported("\\u without four hexadecimal digits");
    }
    out_ += fmt::format("\\x{{{}}}", digits);
    position_ += 4;
    return Status::ok();
  }

  Status escape(bool in_class) {
    take();
    if (at_end()) return unsupported("a single backslash");
    const char c = take();
    switch (c) {
      case 's':
        return set(kSpaceItems, false, in_class, "\\s");
      case 'S':
        if (!in_class) return set(kSpaceItems, true, in_class, "\\S");
        out_ += R"(\S\x{180E})";  // PCRE2's \S lacks just this one
        return Status::ok();
      case 'w':
        return set(kWordItems, false, in_class, "\\w");
      case 'W':
        return set(kWordItems, true, in_class, "\\W");
      case 'h':
        return set(kHexItems, false, in_class, "\\h");
      case 'H':
        return set(kHexItems, true, in_class, "\\H");
      case 'v':
        out_ += R"(\x{0B})";
        return Status::ok();
      case 'p':
      case 'P':
        return property();
      case 'u':
        return unicode_escape();
      case 'b':
        if (in_class) return unsupported("\\b in a class");
        out_ += fmt::format("(?:(?<=[{0}])(?![{0}])|(?<![{0}])(?=[{0}]))", kWordItems);
        return Status::ok();
      default:
        break;
    }
    constexpr std::string_view kSame = "dDtnrfaex";
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    const bool anchor = !in_class && (c == 'A' || c == 'z');
    if (letter && kSame.find(c) == kSame.npos && !anchor) {
      return unsupported(fmt::format("\\{}", c));
    }
    out_ += '\\';
    out_ += c;
    return Status::ok();
  }

  // [...]: no nested classes, intersections or POSIX names.
  Status character_class() {
    const size_t start = position_;
    out_ += take();
    if (peek() == '^') out_ += take();
    if (peek() == ']') return unsupported("] first in a class");
    while (!at_end()) {
      if (peek() == '\\') {
        RETURN_IF_ERROR(escape(/*in_class=*/true));
        continue;
      }
      if (peek() == '[') return unsupported("a class in a class");
      if (skip("&&")) return unsupported("&& in a class");
      const char c = take();
      out_ += c;
      if (c == ']') return Status::ok();
    }
    position_ = start;
    return unsupported("a class without ]");
  }

  // ( and what follows it.
  Status group() {
    static constexpr std::array<std::string_view, 8> kGroups = {
        "(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?i)"};
    for (const std::string_view opening : kGroups) {
      if (skip(opening)) {
        out_ += opening;
        return Status::ok();
      }
    }
    if (pattern_.substr(position_).starts_with("(?") ||
        pattern_.substr(position_).starts_with("(*")) {
      return unsupported(fmt::format("the group {}", pattern_.substr(position_, 3)));
    }
    out_ += take();
    return Status::ok();
  }

  // {n}, {n,}, {n,m}, {,m}; any other brace is a literal to Oniguruma.
  Status interval() {
    const size_t end = pattern_.find('}', position_);
    const std::string_view inside =
        end == pattern_.npos ? "" : pattern_.substr(position_ + 1, end - position_ - 1);
    if (inside.empty() || inside == "," || inside.find_first_not_of("0123456789,") != inside.npos) {
      position_++;
      out_ += "\\{";
      return Status::ok();
    }
    out_ += inside[0] == ',' ? fmt::format("{{0{}}}", inside) : fmt::format("{{{}}}", inside);
    position_ = end + 1;
    // To PCRE2 that + means "possessive", to Oniguruma "once or more".
    if (peek() == '+') return unsupported("+ behind {...}");
    return Status::ok();
  }

  std::string_view pattern_;
  size_t position_ = 0;
  std::string out_;
};

}  // namespace

Result<std::string> oniguruma_to_pcre2(std::string_view pattern) {
  if (find_invalid_utf8(pattern)) return Status::invalid_input("the pattern is not UTF-8");
  return Translator(pattern).run();
}

}  // namespace wideep::tokenizer
