#include "base/env.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cstdlib>
#include <cstring>

namespace wideep::env {

namespace {

constexpr std::array kVariables = {kMpiSize,      kMpiRank,       kMpiLocalSize,
                                   kMpiLocalRank, kStatisticPath, kStatisticIterRange};

// Only reads, and nothing in this program writes the environment.
const char* get(const Variable& variable) {
  return std::getenv(variable.name);  // NOLINT(concurrency-mt-unsafe)
}

}  // namespace

std::span<const Variable> variables() {
  return kVariables;
}

Result<std::optional<int>> get_int(const Variable& variable) {
  CHECK(variable.type == Type::kInt);
  const char* text = get(variable);
  if (text == nullptr) return std::optional<int>();
  const char* end = text + std::strlen(text);
  int value = 0;
  const auto [stopped, error] = std::from_chars(text, end, value);
  if (error != std::errc() || stopped != end) {
    return Status::invalid_input(
        fmt::format("environment variable {}: '{}': must be an integer ({})", variable.name, text,
                    variable.meaning));
  }
  return std::optional<int>(value);
}

std::optional<std::string> get_text(const Variable& variable) {
  CHECK(variable.type == Type::kText);
  const char* text = get(variable);
  return text == nullptr ? std::nullopt : std::optional<std::string>(text);
}

}  // namespace wideep::env
