// The methods of strings and maps that chat templates call: see template_builtins.h.
#include <fmt/format.h>

#include <algorithm>

#include "tokenizer/template_builtins.h"
#include "tokenizer/utf8.h"

namespace wideep::tokenizer {
namespace {

struct StringMethod {
  std::string_view name;
  Result<Value> (*call)(const std::string& text, const Arguments& arguments, Budget& budget);
};

template <bool kLeft, bool kRight>
Result<Value> strip_method(const std::string& text, const Arguments& arguments, Budget&) {
  ASSIGN_OR_RETURN(const auto bound, arguments.bind({"chars"}));
  std::optional<std::string> set;
  if (bound[0] && !bound[0]->is_none()) {
    ASSIGN_OR_RETURN(set, expect_string(*bound[0], "chars"));
  }
  return Value::string(std::string(strip(text, set, kLeft, kRight)));
}

// Parts between white space, without empty ones; at most `limit` cuts.
ValueList split_at_space(std::string_view text, int64_t limit) {
  ValueList parts;
  text = strip(text, std::nullopt, true, false);
  while (!text.empty()) {
    size_t end = 0;
    for (size_t next = 0; end < text.size(); end = next) {
      if (is_python_space(next_code_point(text, next))) break;
    }
    // What is left when the cuts are used up stays as it is.
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) end = text.size();
    parts.push_back(Value::string(std::string(text.substr(0, end))));
    text = strip(text.substr(end), std::nullopt, true, false);
  }
  return parts;
}

ValueList split_at(std::string_view text, std::string_view separator, int64_t limit) {
  ValueList parts;
  for (;;) {
    const bool enough = limit >= 0 && static_cast<int64_t>(parts.size()) == limit;
    const size_t found = enough ? std::string_view::npos : text.find(separator);
    parts.push_back(Value::string(std::string(text.substr(0, found))));
    if (found == std::string_view::npos) return parts;
    text.remove_prefix(found + separator.size());
  }
}

ValueList split_at_from_right(std::string_view text, std::string_view separator, int64_t limit) {
  ValueList parts;
  for (;;) {
    const bool enough = limit >= 0 && static_cast<int64_t>(parts.size()) == limit;
    const size_t found = enough ? std::string_view::npos : text.rfind(separator);
    if (found == std::string_view::npos) break;
    parts.push_back(Value::string(std::string(text.substr(found + separator.size()))));
    text = text.substr(0, found);
  }
  parts.push_back(Value::string(std::string(text)));
  std::ranges::reverse(parts);
  return parts;
}

template <bool kFromRight>
Result<Value> split_method(const std::string& text, const Arguments& arguments, Budget& budget) {
  // A part takes some 64 bytes beside its text.
  RETURN_IF_ERROR(budget.charge(4 * Budget::kStep * static_cast<int64_t>(text.size())));
  ASSIGN_OR_RETURN(const auto bound, arguments.bind({"sep", "maxsplit"}));
  int64_t limit = -1;
  if (bound[1]) {
    ASSIGN_OR_RETURN(limit, expect_integer(*bound[1], "maxsplit"));
  }
  if (!bound[0] || bound[0]->is_none()) {
    if (kFromRight && limit >= 0) {
      return Status::invalid_input("rsplit at white space with maxsplit is not supported");
    }
    return Value::list(split_at_space(text, limit));
  }
  ASSIGN_OR_RETURN(const std::string separator, expect_string(*bound[0], "sep"));
  if (separator.empty()) return Status::invalid_input("split with an empty separator");
  return Value::list(kFromRight ? split_at_from_right(text, separator, limit)
                                : split_at(text, separator, limit));
}

// startswith and endswith take a string or several.
template <bool kAtStart>
Result<Value> affix_method(const std::string& text, const Arguments& arguments, Budget& budget) {
  ASSIGN_OR_RETURN(const auto bound, arguments.bind({"affix"}));
  if (!bound[0]) return Status::invalid_input("takes one argument");
  ValueList affixes = {*bound[0]};
  if (bound[0]->as_list() != nullptr) affixes = *bound[0]->as_list();
  for (const Value& candidate : affixes) {
    ASSIGN_OR_RETURN(const std::string affix, expect_string(candidate, "the argument"));
    RETURN_IF_ERROR(budget.charge(static_cast<int64_t>(affix.size()) + Budget::kStep));
    if (kAtStart ? text.starts_with(affix) : text.ends_with(affix)) return Value::boolean(true);
  }
  return Value::boolean(false);
}

Result<Value> replace_method(const std::string& text, const Arguments& arguments, Budget& budget) {
  ASSIGN_OR_RETURN(const auto bound, arguments.bind({"old", "new", "count"}));
  if (!bound[0] || !bound[1]) return Status::invalid_input("takes two arguments");
  ASSIGN_OR_RETURN(const std::string from, expect_string(*bound[0], "old"));
  ASSIGN_OR_RETURN(const std::string to, expect_string(*bound[1], "new"));
  int64_t limit = -1;
  if (bound[2]) {
    ASSIGN_OR_RETURN(limit, expect_integer(*bound[2], "count"));
  }
  ASSIGN_OR_RETURN(std::string result, replace_all(text, from, to, limit, budget));
  return Value::string(std::move(result));
}

// Python's title(): a letter behind a letter is lower case, any other is upper case.
std::string title_case(std::string_view text) {
  std::string result;
  bool in_word = false;
  for (size_t position = 0; position < text.size();) {
    const size_t start = position;
    static_cast<void>(next_code_point(text, position));
    const std::string_view c = text.substr(start, position - start);
    const std::string upper = upper_case(c);
    const std::string lower = lower_case(c);
    result += in_word ? lower : upper;
    in_word = upper != lower;
  }
  return result;
}

std::string capitalized(std::string_view text) {
  size_t first = 0;
  if (!text.empty()) static_cast<void>(next_code_point(text, first));
  return upper_case(text.substr(0, first)) + lower_case(text.substr(first));
}

// A method without arguments that makes a string of about the same size.
template <std::string (*kConvert)(std::string_view)>
Result<Value> convert_method(const std::string& text, const Arguments& arguments, Budget&) {
  ASSIGN_OR_RETURN(const auto none, arguments.bind({}));
  static_cast<void>(none);
  return Value::string(kConvert(text));
}

Result<Value> splitlines_method(const std::string& text, const Arguments& arguments,
                                Budget& budget) {
  ASSIGN_OR_RETURN(const auto none, arguments.bind({}));
  static_cast<void>(none);
  RETURN_IF_ERROR(budget.charge(4 * Budget::kStep * static_cast<int64_t>(text.size())));
  ValueList lines = split_at(text, "\n", -1);
  if (text.empty() || text.ends_with('\n')) lines.pop_back();
  return Value::list(std::move(lines));
}

// Index in characters, -1: not there.
Result<Value> find_method(const std::string& text, const Arguments& arguments, Budget&) {
  ASSIGN_OR_RETURN(const auto bound, arguments.bind({"sub"}));
  if (!bound[0]) return Status::invalid_input("takes one argument");
  ASSIGN_OR_RETURN(const std::string part, expect_string(*bound[0], "the argument"));
  const size_t found = text.find(part);
  if (found == std::string::npos) return Value::integer(-1);
  return Value::integer(
      static_cast<int64_t>(count_code_points(std::string_view(text).substr(0, found))));
}

Result<Value> join_method(const std::string& text, const Arguments& arguments, Budget& budget) {
  ASSIGN_OR_RETURN(const auto bound, arguments.bind({"iterable"}));
  if (!bound[0]) return Status::invalid_input("takes one argument");
  ASSIGN_OR_RETURN(const ValueList elements, elements_of(*bound[0], budget));
  std::string result;
  for (size_t i = 0; i < elements.size(); ++i) {
    ASSIGN_OR_RETURN(const std::string part, expect_string(elements[i], "an element"));
    RETURN_IF_ERROR(budget.charge(static_cast<int64_t>(part.size() + text.size())));
    if (i > 0) result += text;
    result += part;
  }
  return Value::string(std::move(result));
}

constexpr StringMethod kStringMethods[] = {
    {"strip", strip_method<true, true>},
    {"lstrip", strip_method<true, false>},
    {"rstrip", strip_method<false, true>},
    {"split", split_method<false>},
    {"rsplit", split_method<true>},
    {"splitlines", splitlines_method},
    {"startswith", affix_method<true>},
    {"endswith", affix_method<false>},
    {"replace", replace_method},
    {"upper", convert_method<upper_case>},
    {"lower", convert_method<lower_case>},
    {"title", convert_method<title_case>},
    {"capitalize", convert_method<capitalized>},
    {"find", find_method},
    {"join", join_method},
};

constexpr std::string_view kMapMethods[] = {"get", "items", "keys", "values"};

Result<Value> call_map_method(const Value::Map& map, std::string_view name,
                              const Arguments& arguments, Budget& budget) {
  RETURN_IF_ERROR(budget.charge(4 * Budget::kStep * static_cast<int64_t>(map.items.size())));
  if (name == "get") {
    ASSIGN_OR_RETURN(const auto bound, arguments.bind({"key", "default"}));
    if (!bound[0]) return Status::invalid_input("takes a key");
    const Value* found = bound[0]->is_string() ? map.find(bound[0]->as_string()) : nullptr;
    return found != nullptr ? *found : bound[1].value_or(Value());
  }
  ASSIGN_OR_RETURN(const auto none, arguments.bind({}));
  static_cast<void>(none);
  ValueList result;
  for (const auto& [key, value] : map.items) {
    if (name == "keys") {
      result.push_back(Value::string(key));
    } else if (name == "values") {
      result.push_back(value);
    } else {
      ASSIGN_OR_RETURN(Value pair, Value::list({Value::string(key), value}));
      result.push_back(std::move(pair));
    }
  }
  return Value::list(std::move(result));
}

}  // namespace

bool is_map_method(std::string_view name) {
  return std::ranges::find(kMapMethods, name) != std::end(kMapMethods);
}

Result<Value> call_method(const Value& subject, std::string_view name, const Arguments& arguments,
                          Budget& budget) {
  Result<Value> result =
      Status::invalid_input(fmt::format("{} has no such method here", subject.type_name()));
  if (subject.is_string()) {
    const auto* method = std::ranges::find(kStringMethods, name, &StringMethod::name);
    if (method != std::end(kStringMethods)) {
      RETURN_IF_ERROR(budget.charge(static_cast<int64_t>(subject.as_string().size())));
      result = method->call(subject.as_string(), arguments, budget);
    }
  } else if (subject.as_map() != nullptr && is_map_method(name)) {
    result = call_map_method(*subject.as_map(), name, arguments, budget);
  } else if (subject.is_undefined()) {
    result = Status::invalid_input(fmt::format("\"{}\" is undefined", subject.undefined_name()));
  }
  if (result.is_ok()) return result;
  return Status::invalid_input(fmt::format("{}(): {}", name, result.status().message()));
}

}  // namespace wideep::tokenizer
