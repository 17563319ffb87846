#include "engine/statistics_options.h"

#include <fmt/format.h>

#include <climits>
#include <string_view>

#include "base/env.h"
#include "base/text.h"

namespace wideep::engine {
namespace {

// A decimal number without sign, below INT_MAX: what keys of statistics files can hold.
std::optional<int> iteration_of(std::string_view text) {
  if (text.empty() || text.find_first_not_of("0123456789") != std::string_view::npos) {
    return std::nullopt;
  }
  const std::optional<int64_t> value = parse_int(text);
  if (!value || *value >= INT_MAX) return std::nullopt;
  return static_cast<int>(*value);
}

Status refuse(const env::Variable& variable, std::string_view value, std::string_view rule) {
  return Status::invalid_input(
      fmt::format("environment variable {}: '{}': {}", variable.name, value, rule));
}

}  // namespace

Result<std::optional<StatisticsOptions>> statistics_from_environment() {
  const std::optional<std::string> range = env::get_text(env::kStatisticIterRange);
  if (!range) return std::optional<StatisticsOptions>();
  const auto parts = split(*range, '-');
  const auto start = parts.size() == 2 ? iteration_of(trim(parts[0])) : std::nullopt;
  const auto stop = parts.size() == 2 ? iteration_of(trim(parts[1])) : std::nullopt;
  if (!start || !stop) {
    return refuse(env::kStatisticIterRange, *range,
                  "must be two iterations START-STOP, such as 100-200");
  }
  if (*start >= *stop) {
    return refuse(env::kStatisticIterRange, *range,
                  "START must be less than STOP: iterations START to STOP - 1 are counted");
  }
  const std::optional<std::string> path = env::get_text(env::kStatisticPath);
  if (!path || path->empty()) {
    return refuse(env::kStatisticPath, path.value_or(""),
                  fmt::format("must name the folder for the statistics, because {} is {}; unset "
                              "that to run without",
                              env::kStatisticIterRange.name, *range));
  }
  return std::optional(StatisticsOptions{*path, *start, *stop});
}

}  // namespace wideep::engine
