// What filters, tests, methods and the evaluator share: see template_builtins.h.
#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>

#include "tokenizer/template_builtins.h"
#include "tokenizer/utf8.h"

namespace wideep::tokenizer {
namespace {

template <typename Convert>
std::string map_characters(std::string_view text, const Convert& convert) {
  std::string result;
  result.reserve(text.size());
  for (size_t position = 0; position < text.size();) {
    append_code_point(result, static_cast<char32_t>(convert(
                                  static_cast<utf8proc_int32_t>(next_code_point(text, position)))));
  }
  return result;
}

bool in_set(char32_t c, const std::optional<std::string>& set) {
  if (!set) return is_python_space(c);
  for (size_t position = 0; position < set->size();) {
    if (next_code_point(*set, position) == c) return true;
  }
  return false;
}

}  // namespace

Result<std::vector<std::optional<Value>>> Arguments::bind(
    const std::vector<std::string_view>& names) const {
  if (positional.size() > names.size()) {
    return Status::invalid_input(
        fmt::format("takes at most {} arguments, not {}", names.size(), positional.size()));
  }
  std::vector<std::optional<Value>> bound(names.size());
  for (size_t i = 0; i < positional.size(); ++i) bound[i] = positional[i];
  for (const auto& [name, value] : keywords) {
    const auto place = std::ranges::find(names, name);
    if (place == names.end()) {
      return Status::invalid_input(fmt::format("the argument \"{}\" is not supported", name));
    }
    std::optional<Value>& slot = bound[static_cast<size_t>(place - names.begin())];
    if (slot) return Status::invalid_input(fmt::format("the argument \"{}\" is there twice", name));
    slot = value;
  }
  return bound;
}

std::vector<size_t> character_offsets(std::string_view text) {
  std::vector<size_t> offsets;
  offsets.reserve(text.size() + 1);
  for (size_t i = 0; i < text.size(); ++i) {
    if ((text[i] & 0xC0) != 0x80) offsets.push_back(i);
  }
  offsets.push_back(text.size());
  return offsets;
}

Result<ValueList> elements_of(const Value& value, Budget& budget) {
  if (const ValueList* list = value.as_list()) {
    RETURN_IF_ERROR(budget.charge(Budget::kStep * static_cast<int64_t>(list->size())));
    return *list;
  }
  ValueList elements;
  if (const Value::Map* map = value.as_map()) {
    RETURN_IF_ERROR(budget.charge(Budget::kStep * static_cast<int64_t>(map->items.size())));
    for (const auto& [key, element] : map->items) elements.push_back(Value::string(key));
  } else if (value.is_string()) {
    const std::string& text = value.as_string();
    RETURN_IF_ERROR(budget.charge(4 * Budget::kStep * static_cast<int64_t>(text.size())));
    const std::vector<size_t> offsets = character_offsets(text);
    for (size_t i = 0; i + 1 < offsets.size(); ++i) {
      elements.push_back(Value::string(text.substr(offsets[i], offsets[i + 1] - offsets[i])));
    }
  } else if (!value.is_undefined()) {
    return Status::invalid_input(fmt::format("{} has no elements", value.type_name()));
  }
  return elements;
}

Value member_of(const Value& value, std::string_view name) {
  if (const Value::Map* map = value.as_map()) {
    if (const Value* found = map->find(name)) return *found;
  } else if (const Value::Namespace* space = value.as_namespace()) {
    if (const auto found = space->find(name); found != space->end()) return found->second;
  }
  return Value::undefined(std::string(name));
}

Result<Value> item_of(const Value& container, const Value& key, Budget& budget) {
  if (key.is_string()) {
    const Value::Map* map = container.as_map();
    RETURN_IF_ERROR(budget.charge(map == nullptr ? 0 : static_cast<int64_t>(map->items.size())));
    return member_of(container, key.as_string());
  }
  const ValueList* list = container.as_list();
  if (!(key.is_integer() || key.is_boolean()) || (list == nullptr && !container.is_string())) {
    ASSIGN_OR_RETURN(std::string name, to_text(key, budget));
    return Value::undefined(std::move(name));
  }
  std::vector<size_t> offsets;
  if (list == nullptr) {
    RETURN_IF_ERROR(budget.charge(static_cast<int64_t>(container.as_string().size())));
    offsets = character_offsets(container.as_string());
  }
  const auto size = static_cast<int64_t>(list != nullptr ? list->size() : offsets.size() - 1);
  int64_t index = key.as_integer();
  if (index < 0) index += size;
  if (index < 0 || index >= size) return Value::undefined(fmt::format("[{}]", key.as_integer()));
  const auto i = static_cast<size_t>(index);
  if (list != nullptr) return (*list)[i];
  return Value::string(container.as_string().substr(offsets[i], offsets[i + 1] - offsets[i]));
}

Result<bool> contains(const Value& container, const Value& element, Budget& budget) {
  if (container.is_string()) {
    ASSIGN_OR_RETURN(const std::string part,
                     expect_string(element, "what is looked for in a string"));
    RETURN_IF_ERROR(
        budget.charge(static_cast<int64_t>(container.as_string().size() + part.size())));
    return container.as_string().find(part) != std::string::npos;
  }
  if (const ValueList* list = container.as_list()) {
    for (const Value& candidate : *list) {
      ASSIGN_OR_RETURN(const bool equal, values_equal(candidate, element, budget));
      if (equal) return true;
    }
    return false;
  }
  if (const Value::Map* map = container.as_map()) {
    RETURN_IF_ERROR(budget.charge(static_cast<int64_t>(map->items.size())));
    return element.is_string() && map->find(element.as_string()) != nullptr;
  }
  if (container.is_undefined()) return false;
  return Status::invalid_input(fmt::format("\"in\" {}", container.type_name()));
}

Result<int> compare_order(const Value& a, const Value& b, Budget& budget) {
  const auto order = [](const auto& x, const auto& y) { return x < y ? -1 : y < x ? 1 : 0; };
  if (a.is_number() && b.is_number()) {
    if (a.is_double() || b.is_double()) return order(a.as_double(), b.as_double());
    return order(a.as_integer(), b.as_integer());
  }
  if (a.is_string() && b.is_string()) {
    // The bytes of UTF-8 have the order of the code points.
    RETURN_IF_ERROR(
        budget.charge(static_cast<int64_t>(std::min(a.as_string().size(), b.as_string().size()))));
    return order(a.as_string(), b.as_string());
  }
  return Status::invalid_input(
      fmt::format("{} and {} have no order", a.type_name(), b.type_name()));
}

std::string upper_case(std::string_view text) {
  return map_characters(text, utf8proc_toupper);
}

std::string lower_case(std::string_view text) {
  return map_characters(text, utf8proc_tolower);
}

std::string_view strip(std::string_view text, const std::optional<std::string>& set, bool left,
                       bool right) {
  while (left && !text.empty()) {
    size_t end = 0;
    if (!in_set(next_code_point(text, end), set)) break;
    text.remove_prefix(end);
  }
  while (right && !text.empty()) {
    size_t start = text.size() - 1;
    while (start > 0 && (text[start] & 0xC0) == 0x80) --start;
    size_t position = start;
    if (!in_set(next_code_point(text, position), set)) break;
    text.remove_suffix(text.size() - start);
  }
  return text;
}

Result<std::string> replace_all(const std::string& text, std::string_view from, std::string_view to,
                                int64_t limit, Budget& budget) {
  RETURN_IF_ERROR(budget.charge(static_cast<int64_t>(text.size())));
  if (from.empty()) {
    return Status::invalid_input("replacing an empty string is not supported");
  }
  std::string result;
  size_t position = 0;
  for (int64_t done = 0; limit < 0 || done < limit; ++done) {
    const size_t found = text.find(from, position);
    if (found == std::string::npos) break;
    RETURN_IF_ERROR(budget.charge(static_cast<int64_t>(to.size()) + 1));
    result.append(text, position, found - position);
    result += to;
    position = found + from.size();
  }
  return result.append(text, position);
}

Result<std::string> expect_string(const Value& value, std::string_view what) {
  if (value.is_string()) return value.as_string();
  return Status::invalid_input(fmt::format("{} must be a string, not {}", what, value.type_name()));
}

Result<int64_t> expect_integer(const Value& value, std::string_view what) {
  if (value.is_integer() || value.is_boolean()) return value.as_integer();
  return Status::invalid_input(
      fmt::format("{} must be an integer, not {}", what, value.type_name()));
}

}  // namespace wideep::tokenizer
