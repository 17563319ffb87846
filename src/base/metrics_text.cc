#include "base/metrics_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <set>

#include "base/text.h"

namespace wideep {
namespace {

struct TypeName {
  MetricType type;
  std::string_view name;
};
constexpr std::array kTypeNames = {
    TypeName{MetricType::kUntyped, "untyped"}, TypeName{MetricType::kCounter, "counter"},
    TypeName{MetricType::kGauge, "gauge"}, TypeName{MetricType::kHistogram, "histogram"},
    TypeName{MetricType::kSummary, "summary"}};

bool is_blank(char c) {
  return c == ' ' || c == '\t';
}

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

bool is_name(std::string_view name, bool colons) {
  if (name.empty() || (name[0] >= '0' && name[0] <= '9')) return false;
  return std::ranges::all_of(name, [colons](char c) {
    return is_letter(c) || (c >= '0' && c <= '9') || (colons && c == ':');
  });
}

std::string escape(std::string_view text, bool quotes) {
  std::string escaped;
  for (const char c : text) {
    if (c == '\n') {
      escaped += "\\n";
    } else {
      if (c == '\\' || (quotes && c == '"')) escaped += '\\';
      escaped += c;
    }
  }
  return escaped;
}

std::string value_text(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  return fmt::format("{}", value);
}

std::string sample_key(const MetricSample& sample) {
  std::string key = sample.name;
  if (!sample.labels.empty()) {
    key += '{';
    for (const auto& [name, value] : sample.labels) {
      if (key.back() != '{') key += ',';
      key += fmt::format("{}=\"{}\"", name, escape(value, /*quotes=*/true));
    }
    key += '}';
  }
  return key;
}

std::string_view without_suffix(std::string_view name, std::string_view suffix) {
  return name.ends_with(suffix) ? name.substr(0, name.size() - suffix.size()) : "";
}

// May a family of this type have samples of this name?
bool belongs(const MetricFamily& family, std::string_view sample) {
  const bool histogram = family.type == MetricType::kHistogram;
  if (histogram || family.type == MetricType::kSummary) {
    if (without_suffix(sample, "_sum") == family.name) return true;
    if (without_suffix(sample, "_count") == family.name) return true;
    if (histogram) return without_suffix(sample, "_bucket") == family.name;
  }
  return sample == family.name;
}

// A number as Prometheus reads it: decimal, or NaN and infinities in any case.
std::optional<double> parse_value(std::string_view text) {
  const bool negative = text.starts_with('-');
  std::string_view digits = text;
  if (negative || text.starts_with('+')) digits.remove_prefix(1);
  const std::string lower = to_lower(digits);
  if (lower == "nan") return std::numeric_limits<double>::quiet_NaN();
  const double sign = negative ? -1 : 1;
  if (lower == "inf" || lower == "infinity") return sign * std::numeric_limits<double>::infinity();
  if (digits.starts_with('-')) return std::nullopt;
  const std::optional<double> value = parse_double(digits);
  return value ? std::optional(sign * *value) : std::nullopt;
}

// Reads one line from left to right.
class LineReader {
 public:
  explicit LineReader(std::string_view line) : rest_(line) { skip_blanks(); }

  bool at_end() const { return rest_.empty(); }
  bool take(char c) {
    if (!rest_.starts_with(c)) return false;
    rest_.remove_prefix(1);
    skip_blanks();
    return true;
  }
  // Up to a blank or one of `stops`.
  std::string_view word(std::string_view stops = "") {
    size_t length = 0;
    while (length < rest_.size() && !is_blank(rest_[length]) &&
           stops.find(rest_[length]) == std::string_view::npos) {
      ++length;
    }
    const std::string_view word = rest_.substr(0, length);
    rest_.remove_prefix(length);
    skip_blanks();
    return word;
  }
  std::string_view rest() const { return rest_; }

  // What stands between the quotes that come next; nullopt where it does not end, or as escaped().
  std::optional<std::string> quoted() {
    CHECK(rest_.starts_with('"'));
    rest_.remove_prefix(1);
    return escaped('"');
  }

  // The text up to `end` ('\0': the end of the line) with its escapes resolved; nullopt where an
  // escape is not one of the format, or the end is missing.
  std::optional<std::string> escaped(char end) {
    std::string text;
    while (!rest_.empty() && (end == '\0' || rest_[0] != end)) {
      char c = rest_[0];
      rest_.remove_prefix(1);
      if (c == '\\') {
        if (rest_.empty()) return std::nullopt;
        c = rest_[0];
        if (c != '\\' && c != 'n' && !(c == '"' && end == '"')) return std::nullopt;
        if (c == 'n') c = '\n';
        rest_.remove_prefix(1);
      }
      text += c;
    }
    if (end != '\0' && !take(end)) return std::nullopt;
    return text;
  }

 private:
  void skip_blanks() {
    while (!rest_.empty() && is_blank(rest_[0])) rest_.remove_prefix(1);
  }

  std::string_view rest_;
};

class Parser {
 public:
  // `line`: one without its end. Errors have no place.
  Status parse_line(std::string_view line) {
    LineReader reader(line);
    if (reader.at_end()) return Status::ok();
    if (!reader.take('#')) return parse_sample(reader);
    const std::string_view word = reader.word();
    if (word == "HELP") return parse_help(reader);
    if (word == "TYPE") return parse_type(reader);
    return Status::ok();
  }

  std::vector<MetricFamily> families() && { return std::move(families_); }

 private:
  // The family that the last lines were about, if it is `name`; else a new one.
  Result<MetricFamily*> family_of(std::string_view name) {
    if (!is_metric_name(name)) {
      return Status::invalid_input(
          fmt::format("\"{}\": is no metric name ([a-zA-Z_:][a-zA-Z0-9_:]*)", name));
    }
    if (families_.empty() || families_.back().name != name) {
      if (!names_.insert(std::string(name)).second) {
        return Status::invalid_input(
            fmt::format("{}: its lines must stand together, once in the file", name));
      }
      families_.emplace_back().name = name;
      has_help_ = has_type_ = false;
    }
    return &families_.back();
  }

  static Status twice(const MetricFamily& family, const char* what) {
    return Status::invalid_input(fmt::format("{}: has a second {} line", family.name, what));
  }

  Status parse_help(LineReader& reader) {
    ASSIGN_OR_RETURN(MetricFamily* const family, family_of(reader.word()));
    if (has_help_) return twice(*family, "HELP");
    has_help_ = true;
    const std::optional<std::string> help = reader.escaped('\0');
    if (!help) {
      return Status::invalid_input(
          fmt::format("{}: HELP has a bad escape: \\\\ and \\n are allowed", family->name));
    }
    family->help = *help;
    return Status::ok();
  }

  Status parse_type(LineReader& reader) {
    ASSIGN_OR_RETURN(MetricFamily* const family, family_of(reader.word()));
    if (has_type_) return twice(*family, "TYPE");
    if (!family->samples.empty()) {
      return Status::invalid_input(
          fmt::format("{}: TYPE must stand before the samples", family->name));
    }
    const std::string_view type(reader.word());
    const auto* const found = std::ranges::find(kTypeNames, type, &TypeName::name);
    if (found == kTypeNames.end() || !reader.at_end()) {
      return Status::invalid_input(fmt::format(
          "{}: TYPE must be counter, gauge, histogram, summary or untyped", family->name));
    }
    family->type = found->type;
    has_type_ = true;
    return Status::ok();
  }

  static Status parse_labels(LineReader& reader, MetricSample& sample) {
    while (!reader.take('}')) {
      const std::string label(reader.word("=,}\""));
      if (!is_label_name(label)) {
        return Status::invalid_input(fmt::format(
            "{}: \"{}\" is no label name ([a-zA-Z_][a-zA-Z0-9_]*)", sample.name, label));
      }
      if (!reader.take('=') || !reader.rest().starts_with('"')) {
        return Status::invalid_input(
            fmt::format("{}: label {}: must be {}=\"value\"", sample.name, label, label));
      }
      const std::optional<std::string> value = reader.quoted();
      if (!value) {
        return Status::invalid_input(
            fmt::format("{}: label {}: must end with '\"'; \\\\, \\\" and \\n are its escapes",
                        sample.name, label));
      }
      if (std::ranges::find(sample.labels, label, &MetricLabels::value_type::first) !=
          sample.labels.end()) {
        return Status::invalid_input(fmt::format("{}: label {}: twice", sample.name, label));
      }
      sample.labels.emplace_back(label, *value);
      if (!reader.take(',') && !reader.rest().starts_with('}')) {
        return Status::invalid_input(
            fmt::format("{}: labels must be separated by ',' and end with '}}'", sample.name));
      }
    }
    return Status::ok();
  }

  Status parse_sample(LineReader& reader) {
    MetricSample sample;
    sample.name = reader.word("{");
    const bool continues = !families_.empty() && belongs(families_.back(), sample.name);
    ASSIGN_OR_RETURN(MetricFamily* const family,
                     family_of(continues ? families_.back().name : sample.name));
    if (!belongs(*family, sample.name)) {
      return Status::invalid_input(fmt::format(
          "{0}: is a histogram: its samples are {0}_bucket, {0}_sum and {0}_count", family->name));
    }
    if (reader.take('{')) RETURN_IF_ERROR(parse_labels(reader, sample));
    const std::string_view value_word = reader.word();
    const std::optional<double> value = parse_value(value_word);
    if (!value) {
      return Status::invalid_input(fmt::format("{}: \"{}\" is no value", sample.name, value_word));
    }
    sample.value = *value;
    if (!reader.at_end()) {
      const std::string_view word = reader.word();
      sample.timestamp_ms = parse_int(word);
      if (!sample.timestamp_ms || !reader.at_end()) {
        return Status::invalid_input(fmt::format(
            "{}: after the value may only stand a time in whole milliseconds", sample.name));
      }
    }
    if (!samples_.insert(sample_key(sample)).second) {
      return Status::invalid_input(fmt::format("{}: twice with these labels", sample.name));
    }
    family->samples.push_back(std::move(sample));
    return Status::ok();
  }

  std::vector<MetricFamily> families_;
  std::set<std::string> names_;    // of families
  std::set<std::string> samples_;  // with labels
  bool has_help_ = false;          // of the last family
  bool has_type_ = false;
};

}  // namespace

bool is_metric_name(std::string_view name) {
  return is_name(name, /*colons=*/true);
}

bool is_label_name(std::string_view name) {
  return is_name(name, /*colons=*/false);
}

std::string metrics_text(std::span<const MetricFamily> families) {
  std::string text;
  for (const MetricFamily& family : families) {
    if (!family.help.empty()) {
      text += fmt::format("# HELP {} {}\n", family.name, escape(family.help, /*quotes=*/false));
    }
    const auto* const type = std::ranges::find(kTypeNames, family.type, &TypeName::type);
    text += fmt::format("# TYPE {} {}\n", family.name, type->name);
    for (const MetricSample& sample : family.samples) {
      text += fmt::format("{} {}", sample_key(sample), value_text(sample.value));
      if (sample.timestamp_ms) text += fmt::format(" {}", *sample.timestamp_ms);
      text += '\n';
    }
  }
  return text;
}

Result<std::vector<MetricFamily>> parse_metrics(std::string_view text, const std::string& name) {
  Parser parser;
  for (int number = 1; !text.empty(); ++number) {
    const size_t end = text.find('\n');
    if (end == std::string_view::npos) {
      return Status::invalid_input(
          fmt::format("{}:{}: the last line has no end: the file is cut short", name, number));
    }
    const Status status = parser.parse_line(text.substr(0, end));
    if (!status.is_ok()) return status.prefixed(fmt::format("{}:{}: ", name, number));
    text.remove_prefix(end + 1);
  }
  return std::move(parser).families();
}

const MetricFamily* find_family(std::span<const MetricFamily> families, std::string_view name) {
  const auto found = std::ranges::find(families, name, &MetricFamily::name);
  return found == families.end() ? nullptr : &*found;
}

}  // namespace wideep
