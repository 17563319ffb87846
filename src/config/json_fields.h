// Strict reading of a JSON object's members: wrong types and sizes are collected, not thrown, and
// reading goes on with the default.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "config/schema.h"

namespace wideep {

class JsonFields {
 public:
  // `prefix` stands before the keys in messages ("text_config."). Keeps references to all.
  JsonFields(const Json& object, const std::string& name, std::string prefix,
             Violations& violations)
      : object_(object), name_(name), prefix_(std::move(prefix)), violations_(violations) {}

  // Is it there, and not null?
  bool has(const char* key) const;
  // An object member, or nullptr (with a violation where it is another type).
  const Json* object(const char* key) const;

  // A number of the range; without a fallback it must be there.
  int integer(const char* key, int64_t min, int64_t max,
              std::optional<int> fallback = std::nullopt) const;
  double number(const char* key, double fallback) const;
  // A bool; also a number, as Llama 4's attn_temperature_tuning has it: not 0.
  bool boolean(const char* key, bool fallback) const;
  std::string string(const char* key, const std::string& fallback) const;
  // Integers of the range; nullopt where it is not there, null or wrong.
  std::optional<std::vector<int>> integers(const char* key, int64_t min, int64_t max) const;
  // A token id or a list of them; {} where it is not there or null.
  std::vector<int> token_ids(const char* key) const;

  // A violation of the key's value.
  void fail(const char* key, const std::string& rule) const;

 private:
  const Json& object_;
  const std::string& name_;
  std::string prefix_;
  Violations& violations_;
};

}  // namespace wideep
