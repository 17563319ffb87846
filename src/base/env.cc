#include "base/env.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cstdlib>
#include <cstring>

namespace wideep::env {

namespace {

constexpr std::array kVariables = {kMpiSize, kMpiRank, kMpiLocalSize, kMpiLocalRank};

}  // namespace

std::span<const Variable> variables() {
  return kVariables;
}

Result<std::optional<int>> get_int(const Variable& variable) {
  CHECK(variable.type == Type::kInt);
  // Only reads, and nothing in this program writes the environment.
  const char* text = std::getenv(variable.name);  // NOLINT(concurrency-mt-unsafe)
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

}  // namespace wideep::env
