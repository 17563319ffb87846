// A place in a JSON document that knows its path, so that every wrong type is an error naming file
// and place: "tokenizer.json: model.merges[3]: must be a string".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace wideep::tokenizer {

// The value as an integer of [min, max]; nullopt where it is something else.
std::optional<int> integer_in(const Json& value, int64_t min, int64_t max);

class JsonNode {
 public:
  // Keeps references to both; both outlive the node.
  JsonNode(const Json& value, const std::string& file) : value_(&value), file_(&file) {}

  const Json& json() const { return *value_; }
  const std::string& path() const { return path_; }
  bool is_null() const { return value_->is_null(); }

  // An error about this place.
  Status error(std::string_view rule) const;

  // Is the member there, and not null? False for what is not an object, too.
  bool has(const char* key) const;
  // A member that must be there.
  Result<JsonNode> member(const char* key) const;
  // The elements of a list.
  Result<std::vector<JsonNode>> elements() const;
  // A list that is a member, which may be missing: then empty.
  Result<std::vector<JsonNode>> optional_elements(const char* key) const;

  Result<std::string> string() const;
  Result<int> integer(int64_t min, int64_t max) const;
  // Members with a default for where they are missing or null.
  Result<bool> boolean_or(const char* key, bool fallback) const;
  Result<std::string> string_or(const char* key, const std::string& fallback) const;

  // "type" of a component; the error lists what it may be.
  Result<std::string> type() const { return string_member("type"); }
  Result<std::string> string_member(const char* key) const;

 private:
  JsonNode(const Json& value, const std::string& file, std::string path)
      : value_(&value), file_(&file), path_(std::move(path)) {}

  const Json* value_;
  const std::string* file_;
  std::string path_;
};

}  // namespace wideep::tokenizer
