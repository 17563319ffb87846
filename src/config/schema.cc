#include "config/schema.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "config/schema_keys.h"

namespace wideep {
namespace {

constexpr size_t kMaxShown = 60;       // bytes of a value in a message
constexpr size_t kCommentColumn = 46;  // of the origins in a written configuration

// On one line, whatever is in the file.
std::string shorten(std::string_view text) {
  std::string shown(text.substr(0, kMaxShown));
  for (char& c : shown) {
    if (c == '\n' || c == '\r' || c == '\t') c = ' ';
  }
  if (text.size() > kMaxShown) shown += "...";
  return shown;
}

bool looks_like_number(std::string_view text) {
  return !text.empty() && (parse_double(text).has_value() || text.front() == '.' ||
                           text.front() == '+' || (text.front() >= '0' && text.front() <= '9'));
}

std::optional<bool> bool_word(std::string_view text) {
  const std::string word = to_lower(text);
  if (word == "true" || word == "yes" || word == "on") return true;
  if (word == "false" || word == "no" || word == "off") return false;
  return std::nullopt;
}

}  // namespace

void Violations::add(std::string_view place, std::string_view key, std::string_view value,
                     std::string_view rule) {
  add(fmt::format("{}: {}: {}: {}", place, shorten(key), value, rule));
}

void Violations::add(const Status& status) {
  if (status.is_ok()) return;
  for (const std::string_view line : split(status.message(), '\n')) add(std::string(line));
}

Status Violations::status() const {
  if (empty()) return Status::ok();
  std::string message = fmt::format("{}", fmt::join(lines_, "\n"));
  if (count_ > lines_.size()) message += fmt::format("\n... and {} more", count_ - lines_.size());
  return Status::invalid_input(std::move(message));
}

std::string ReadContext::place(const YamlNode& node) const {
  return has_lines ? fmt::format("{}:{}", file, node.line()) : file;
}

void ReadContext::fail(const YamlNode& node, std::string_view path, std::string_view rule) const {
  violations.add(place(node), path, describe(node), rule);
}

bool ReadContext::claim(const YamlNode& key, const std::string& written,
                        const std::string& target) const {
  const auto [origin, is_new] = origins.try_emplace(target, Origin{place(key), written});
  if (is_new) return true;
  violations.add(fmt::format("{}: {}: already given as {} at {}: keep one", place(key), written,
                             origin->second.key, origin->second.place));
  return false;
}

std::string describe(const YamlNode& node) {
  switch (node.kind()) {
    case YamlKind::kNull:
      return "null";
    case YamlKind::kList:
      return fmt::format("a list of {}", node.size());
    case YamlKind::kMap:
      return "a map";
    case YamlKind::kScalar:
      return node.quoted() ? fmt::format("\"{}\"", shorten(node.text())) : shorten(node.text());
  }
  return "";
}

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  const std::vector<std::string_view> views(candidates.begin(), candidates.end());
  return nearest_word(word.substr(0, kMaxShown), views);
}

std::string did_you_mean(std::string_view candidate) {
  return candidate.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", candidate);
}

std::optional<int64_t> scalar_int(const YamlNode& node) {
  if (!node.is_scalar() || node.quoted()) return std::nullopt;
  const std::string_view text = node.text();
  const std::string_view digits = text.substr(text.starts_with('-') ? 1 : 0);
  // 010 is eight to some readers of YAML and ten to others.
  if (digits.size() > 1 && digits.front() == '0') return std::nullopt;
  return parse_int(text);
}

std::optional<double> scalar_double(const YamlNode& node) {
  if (!node.is_scalar() || node.quoted()) return std::nullopt;
  return parse_double(node.text());
}

std::optional<bool> scalar_bool(const YamlNode& node) {
  if (!node.is_scalar() || node.quoted()) return std::nullopt;
  return bool_word(node.text());
}

std::optional<std::string> scalar_string(const YamlNode& node) {
  if (!node.is_scalar()) return std::nullopt;
  return std::string(node.text());
}

std::string origin_line(const std::string& line, const std::string& path, const Origins& origins) {
  const auto origin = origins.find(path);
  return fmt::format("{:<{}}  # {}\n", line, kCommentColumn,
                     origin == origins.end() ? "default" : shorten(origin->second.place));
}

std::string must_be(const std::string& type) {
  const std::string_view word = std::string_view(type).substr(0, type.find_first_of(" ,"));
  if (word == "integer") return "must be an " + type;
  const bool is_noun = word == "number" || word == "list";
  return (is_noun ? "must be a " : "must be ") + type;
}

std::string yaml_string(std::string_view text) {
  const auto is_plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '/' || c == '.' || c == '-';
  };
  const std::string lower = to_lower(text);
  const bool plain = !text.empty() && text.front() != '-' &&
                     std::all_of(text.begin(), text.end(), is_plain) && !looks_like_number(text) &&
                     !bool_word(text) && lower != "null";
  if (plain) return std::string(text);
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    if (c == '\n') {
      quoted += "\\n";
    } else if (c == '\r') {
      quoted += "\\r";
    } else if (c == '\t') {
      quoted += "\\t";
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

std::string yaml_double(double value) {
  return fmt::format("{}", value);
}

std::string yaml_list(const std::vector<int>& values) {
  return fmt::format("[{}]", fmt::join(values, ", "));
}

}  // namespace wideep
