#include "cli/text_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace wideep::cli {
namespace {

size_t widest(const std::vector<std::string>& texts) {
  size_t width = 0;
  for (const std::string& text : texts) width = std::max(width, text.size());
  return width;
}

// Takes off the zeros that all texts end with, but not the one behind the point.
void trim_common_zeros(std::vector<std::string>& texts) {
  const auto can_lose_a_zero = [](const std::string& text) {
    return text.ends_with('0') && !text.ends_with(".0");
  };
  while (!texts.empty() && std::all_of(texts.begin(), texts.end(), can_lose_a_zero)) {
    for (std::string& text : texts) text.pop_back();
  }
}

std::vector<std::string> format_column(const std::vector<double>& values) {
  std::vector<std::string> texts;
  texts.reserve(values.size());
  for (const double value : values) texts.push_back(fmt::format("{:.6f}", value));
  trim_common_zeros(texts);
  const bool has_small = std::any_of(values.begin(), values.end(), [](double value) {
    return value != 0 && std::abs(value) < 1e-6;
  });
  const bool has_large =
      std::any_of(values.begin(), values.end(), [](double value) { return std::abs(value) > 1e6; });
  // pandas counts a leading blank for the sign.
  const bool too_wide = widest(texts) + 1 > 12;
  if (!has_small && !(too_wide && has_large)) return texts;
  texts.clear();
  for (const double value : values) texts.push_back(fmt::format("{:.6e}", value));
  return texts;
}

}  // namespace

std::string text_table(const std::vector<std::string>& labels,
                       const std::vector<TextColumn>& columns) {
  const size_t label_width = widest(labels);
  std::string header(label_width, ' ');
  std::vector<std::string> lines;
  lines.reserve(labels.size());
  for (const std::string& label : labels)
    lines.push_back(fmt::format("{:<{}}", label, label_width));
  for (const TextColumn& column : columns) {
    CHECK_EQ(column.values.size(), labels.size());
    const std::vector<std::string> texts = format_column(column.values);
    const size_t width = std::max(widest(texts), column.name.size());
    header += fmt::format("  {:>{}}", column.name, width);
    for (size_t i = 0; i < texts.size(); ++i) lines[i] += fmt::format("  {:>{}}", texts[i], width);
  }
  std::string table = header + '\n';
  for (const std::string& line : lines) table += line + '\n';
  return table;
}

}  // namespace wideep::cli
