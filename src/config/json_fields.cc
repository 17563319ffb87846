#include "config/json_fields.h"

#include <fmt/format.h>

#include <cmath>

namespace wideep {
namespace {

std::optional<int> integer_in(const Json& value, int64_t min, int64_t max) {
  if (!value.is_number_integer()) return std::nullopt;
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(max)) {
    return std::nullopt;
  }
  const auto number = value.get<int64_t>();
  if (number < min || number > max) return std::nullopt;
  return static_cast<int>(number);
}

std::string show(const Json* value) {
  if (value == nullptr) return "missing";
  if (value->is_object()) return "an object";
  if (value->is_array()) return fmt::format("a list of {}", value->size());
  // Strings of a hostile file need not be UTF-8.
  return value->dump(-1, ' ', true, Json::error_handler_t::replace).substr(0, 60);
}

}  // namespace

bool JsonFields::has(const char* key) const {
  const auto found = object_.find(key);
  return found != object_.end() && !found->is_null();
}

const Json* JsonFields::object(const char* key) const {
  if (!has(key)) return nullptr;
  const Json& value = object_.at(key);
  if (value.is_object()) return &value;
  fail(key, "must be an object");
  return nullptr;
}

int JsonFields::integer(const char* key, int64_t min, int64_t max,
                        std::optional<int> fallback) const {
  if (!has(key) && fallback) return *fallback;
  const std::optional<int> value = has(key) ? integer_in(object_.at(key), min, max) : std::nullopt;
  if (!value) fail(key, fmt::format("must be integer {} to {}", min, max));
  // In range, so that what is derived from it stays sane until the violations are reported.
  return value ? *value : fallback.value_or(static_cast<int>(min));
}

double JsonFields::number(const char* key, double fallback) const {
  if (!has(key)) return fallback;
  const Json& value = object_.at(key);
  if (value.is_number() && std::isfinite(value.get<double>())) return value.get<double>();
  fail(key, "must be a number");
  return fallback;
}

bool JsonFields::boolean(const char* key, bool fallback) const {
  if (!has(key)) return fallback;
  const Json& value = object_.at(key);
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number_integer()) return value.get<int64_t>() != 0;
  fail(key, "must be true or false");
  return fallback;
}

std::string JsonFields::string(const char* key, const std::string& fallback) const {
  if (!has(key)) return fallback;
  const Json& value = object_.at(key);
  if (value.is_string()) return value.get<std::string>();
  fail(key, "must be a string");
  return fallback;
}

std::optional<std::vector<int>> JsonFields::integers(const char* key, int64_t min,
                                                     int64_t max) const {
  if (!has(key)) return std::nullopt;
  const Json& list = object_.at(key);
  std::vector<int> values;
  if (list.is_array()) {
    for (const Json& item : list) {
      const std::optional<int> value = integer_in(item, min, max);
      if (!value) break;
      values.push_back(*value);
    }
    if (values.size() == list.size()) return values;
  }
  fail(key, fmt::format("must be a list of integers {} to {}", min, max));
  return std::nullopt;
}

std::vector<int> JsonFields::token_ids(const char* key) const {
  constexpr int64_t kMaxTokenId = 2147483647;
  if (!has(key)) return {};
  if (!object_.at(key).is_array()) return {integer(key, 0, kMaxTokenId)};
  return integers(key, 0, kMaxTokenId).value_or(std::vector<int>{});
}

void JsonFields::fail(const char* key, const std::string& rule) const {
  const auto found = object_.find(key);
  violations_.add(name_, prefix_ + key, show(found == object_.end() ? nullptr : &*found), rule);
}

}  // namespace wideep
