#include "tokenizer/json_node.h"

#include <fmt/format.h>

namespace wideep::tokenizer {

std::optional<int> integer_in(const Json& value, int64_t min, int64_t max) {
  if (!value.is_number_integer()) return std::nullopt;
  // As int64 an unsigned number beyond it would be negative.
  if (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX) return std::nullopt;
  const auto integer = value.get<int64_t>();
  if (integer < min || integer > max) return std::nullopt;
  return static_cast<int>(integer);
}

Status JsonNode::error(std::string_view rule) const {
  return Status::invalid_input(path_.empty() ? fmt::format("{}: {}", *file_, rule)
                                             : fmt::format("{}: {}: {}", *file_, path_, rule));
}

bool JsonNode::has(const char* key) const {
  if (!value_->is_object()) return false;
  const auto found = value_->find(key);
  return found != value_->end() && !found->is_null();
}

Result<JsonNode> JsonNode::member(const char* key) const {
  if (!value_->is_object()) return error("must be an object");
  const auto found = value_->find(key);
  if (found == value_->end()) return error(fmt::format("\"{}\" is missing", key));
  return JsonNode(*found, *file_, path_.empty() ? key : fmt::format("{}.{}", path_, key));
}

Result<std::vector<JsonNode>> JsonNode::elements() const {
  if (!value_->is_array()) return error("must be a list");
  std::vector<JsonNode> nodes;
  nodes.reserve(value_->size());
  for (const Json& element : *value_) {
    nodes.push_back(JsonNode(element, *file_, fmt::format("{}[{}]", path_, nodes.size())));
  }
  return nodes;
}

Result<std::vector<JsonNode>> JsonNode::optional_elements(const char* key) const {
  if (!has(key)) return std::vector<JsonNode>{};
  ASSIGN_OR_RETURN(const JsonNode list, member(key));
  return list.elements();
}

Result<std::string> JsonNode::string() const {
  if (!value_->is_string()) return error("must be a string");
  return value_->get<std::string>();
}

Result<int> JsonNode::integer(int64_t min, int64_t max) const {
  const std::optional<int> value = integer_in(*value_, min, max);
  if (!value) return error(fmt::format("must be an integer from {} to {}", min, max));
  return *value;
}

Result<bool> JsonNode::boolean_or(const char* key, bool fallback) const {
  if (!has(key)) return fallback;
  ASSIGN_OR_RETURN(const JsonNode node, member(key));
  if (!node.json().is_boolean()) return node.error("must be true or false");
  return node.json().get<bool>();
}

Result<std::string> JsonNode::string_or(const char* key, const std::string& fallback) const {
  return has(key) ? string_member(key) : Result<std::string>(fallback);
}

Result<std::string> JsonNode::string_member(const char* key) const {
  ASSIGN_OR_RETURN(const JsonNode node, member(key));
  return node.string();
}

}  // namespace wideep::tokenizer
