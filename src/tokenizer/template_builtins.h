// Filters, tests and methods of chat templates: functions of values.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "tokenizer/template_value.h"

namespace wideep::tokenizer {

struct Arguments {
  std::vector<Value> positional = {};
  std::vector<std::pair<std::string, Value>> keywords = {};

  // The arguments in the order of the names, by place or keyword; nullopt where one is left out. An
  // error names what does not fit.
  Result<std::vector<std::optional<Value>>> bind(const std::vector<std::string_view>& names) const;
};

struct Filter {
  std::string_view name;
  Result<Value> (*apply)(const Value& value, const Arguments& arguments, Budget& budget);
};

struct Test {
  std::string_view name;
  int num_arguments;
  Result<bool> (*apply)(const Value& value, const std::vector<Value>& arguments, Budget& budget);
};

// nullptr where there is none of that name.
const Filter* find_filter(std::string_view name);
const Test* find_test(std::string_view name);

Result<bool> apply_test(const Test& test, const Value& value, const std::vector<Value>& arguments,
                        Budget& budget);

// subject.name(arguments) of a string or map.
Result<Value> call_method(const Value& subject, std::string_view name, const Arguments& arguments,
                          Budget& budget);
// Is it a method of maps? Jinja finds those before a map's keys.
bool is_map_method(std::string_view name);

// Shared by the three.

// The elements of a list, the keys of a map, the characters of a string.
Result<ValueList> elements_of(const Value& value, Budget& budget);
// value.name, value[name]: undefined where there is none.
Value member_of(const Value& value, std::string_view name);
// container[key]
Result<Value> item_of(const Value& container, const Value& key, Budget& budget);
Result<bool> contains(const Value& container, const Value& element, Budget& budget);
// -1, 0 or 1 for numbers and strings; an error for others.
Result<int> compare_order(const Value& a, const Value& b, Budget& budget);
// Begin and end of each character of well-formed text, count + 1 offsets.
std::vector<size_t> character_offsets(std::string_view text);
std::string upper_case(std::string_view text);
std::string lower_case(std::string_view text);
// Without the characters of `set` (white space where it is left out) at the ends.
std::string_view strip(std::string_view text, const std::optional<std::string>& set, bool left,
                       bool right);
Result<std::string> replace_all(const std::string& text, std::string_view from, std::string_view to,
                                int64_t limit, Budget& budget);
// An error for what is not a string; `what` names it.
Result<std::string> expect_string(const Value& value, std::string_view what);
Result<int64_t> expect_integer(const Value& value, std::string_view what);

}  // namespace wideep::tokenizer
