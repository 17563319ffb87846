// Small text helpers: strict numbers and the nearest word.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace wideep {

// The whole text as a decimal integer or a finite number; nullopt for anything else ("1x", "",
// "nan").
std::optional<int64_t> parse_int(std::string_view text);
std::optional<double> parse_double(std::string_view text);

std::string_view trim(std::string_view text);
std::vector<std::string_view> split(std::string_view text, char separator);
std::string to_lower(std::string_view text);

// The candidate with the smallest edit distance to `word` (ASCII case ignored), or "" where none is
// near: more than a third of the word's letters would have to change (at least two may).
std::string nearest_word(std::string_view word, std::span<const std::string_view> candidates);

}  // namespace wideep
