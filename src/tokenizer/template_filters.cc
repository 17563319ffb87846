// The filters of chat templates ("x | trim"): see template_builtins.h.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/text.h"
#include "tokenizer/template_builtins.h"
#include "tokenizer/utf8.h"

namespace wideep::tokenizer {
namespace {

// A filter that is a method of the value's text.
template <const char* kName>
Result<Value> by_method(const Value& value, const Arguments& arguments, Budget& budget) {
  ASSIGN_OR_RETURN(std::string text, to_text(value, budget));
  return call_method(Value::string(std::move(text)), kName, arguments, budget);
}

constexpr char kStrip[] = "strip";
constexpr char kUpper[] = "upper";
constexpr char kLower[] = "lower";
constexpr char kTitle[] = "title";
constexpr char kCapitalize[] = "capitalize";
constexpr char kReplace[] = "replace";

Result<Value> length(const Value& value, const Arguments& arguments, Budget&) {
  ASSIGN_OR_RETURN(const auto none, arguments.bind({}));
  static_cast<void>(none);
  size_t size = 0;
  if (value.is_string()) {
    size = count_code_points(value.as_string());
  } else if (const ValueList* list = value.as_list()) {
    size = list->size();
  } else if (const Value::Map* map = value.as_map()) {
    size = map->items.size();
  } else if (!value.is_undefined()) {
    return Status::invalid_input(fmt::format("{} has no length", value.type_name()));
  }
  return Value::integer(static_cast<int64_t>(size));
}

Result<Value> tojson(const Value& value, const Arguments& arguments, Budget& budget) {
  ASSIGN_OR_RETURN(const auto bound,
                   arguments.bind({"ensure_ascii", "indent", "separators", "sort_keys"}));
  JsonStyle style;
  style.ensure_ascii = bound[0] && bound[0]->truthy();
  style.sort_keys = bound[3] && bound[3]->truthy();
  if (bound[1] && !bound[1]->is_none()) {
    ASSIGN_OR_RETURN(const int64_t indent, expect_integer(*bound[1], "indent"));
    if (indent < 0 || indent > 100) return Status::invalid_input("indent must be 0 to 100");
    style.indent = static_cast<int>(indent);
    style.item_separator.assign(1, ',');
  }
  if (bound[2] && !bound[2]->is_none()) {
    const ValueList* pair = bound[2]->as_list();
    if (pair == nullptr || pair->size() != 2) {
      return Status::invalid_input("separators must be two strings");
    }
    ASSIGN_OR_RETURN(style.item_separator, expect_string((*pair)[0], "a separator"));
    ASSIGN_OR_RETURN(style.key_separator, expect_string((*pair)[1], "a separator"));
    if (style.item_separator.size() + style.key_separator.size() > 100) {
      return Status::invalid_input("separators of more than 100 bytes");
    }
  }
  ASSIGN_OR_RETURN(std::string text, to_json_text(value, style, budget));
  return Value::string(std::move(text));
}

Result<Value> or_default(const Value& value, const Arguments& arguments, Budget&) {
  ASSIGN_OR_RETURN(const auto bound, arguments.bind({"default_value", "boolean"}));
  const bool also_false = bound[1] && bound[1]->truthy();
  if (!value.is_undefined() && (!also_false || value.truthy())) return value;
  return bound[0].value_or(Value::string(""));
}

Result<Value> join(const Value& value, const Arguments& arguments, Budget& budget) {
  ASSIGN_OR_RETURN(const auto bound, arguments.bind({"d", "attribute"}));
  std::string separator;
  if (bound[0]) {
    ASSIGN_OR_RETURN(separator, to_text(*bound[0], budget));
  }
  ASSIGN_OR_RETURN(const ValueList elements, elements_of(value, budget));
  std::string result;
  for (size_t i = 0; i < elements.size(); ++i) {
    Value element = elements[i];
    if (bound[1]) {
      ASSIGN_OR_RETURN(element, item_of(elements[i], *bound[1], budget));
    }
    ASSIGN_OR_RETURN(const std::string part, to_text(element, budget));
    RETURN_IF_ERROR(budget.charge(static_cast<int64_t>(separator.size())));
    if (i > 0) result += separator;
    result += part;
  }
  return Value::string(std::move(result));
}

Result<Value> items(const Value& value, const Arguments& arguments, Budget& budget) {
  if (value.is_undefined()) return Value::list({});
  return call_method(value, "items", arguments, budget);
}

Result<Value> to_list(const Value& value, const Arguments& arguments, Budget& budget) {
  ASSIGN_OR_RETURN(const auto none, arguments.bind({}));
  static_cast<void>(none);
  ASSIGN_OR_RETURN(ValueList elements, elements_of(value, budget));
  return Value::list(std::move(elements));
}

Result<Value> to_string(const Value& value, const Arguments& arguments, Budget& budget) {
  ASSIGN_OR_RETURN(const auto none, arguments.bind({}));
  static_cast<void>(none);
  ASSIGN_OR_RETURN(std::string text, to_text(value, budget));
  return Value::string(std::move(text));
}

template <bool kLast>
Result<Value> end_element(const Value& value, const Arguments& arguments, Budget& budget) {
  ASSIGN_OR_RETURN(const auto none, arguments.bind({}));
  static_cast<void>(none);
  ASSIGN_OR_RETURN(const ValueList elements, elements_of(value, budget));
  if (elements.empty()) return Value::undefined("an element of an empty list");
  return kLast ? elements.back() : elements.front();
}

Result<Value> reverse(const Value& value, const Arguments& arguments, Budget& budget) {
  ASSIGN_OR_RETURN(const auto none, arguments.bind({}));
  static_cast<void>(none);
  ASSIGN_OR_RETURN(ValueList elements, elements_of(value, budget));
  std::ranges::reverse(elements);
  if (!value.is_string()) return Value::list(std::move(elements));
  std::string text;
  for (const Value& element : elements) text += element.as_string();
  return Value::string(std::move(text));
}

Result<Value> to_integer(const Value& value, const Arguments& arguments, Budget&) {
  ASSIGN_OR_RETURN(const auto bound, arguments.bind({"default"}));
  std::optional<double> number;
  if (value.is_integer() || value.is_boolean()) return Value::integer(value.as_integer());
  if (value.is_string()) {
    if (const auto exact = parse_int(trim(value.as_string()))) return Value::integer(*exact);
    number = parse_double(trim(value.as_string()));
  } else if (value.is_double()) {
    number = value.as_double();
  }
  if (number && std::abs(*number) < 0x1p63) return Value::integer(static_cast<int64_t>(*number));
  return bound[0].value_or(Value::integer(0));
}

Result<Value> to_float(const Value& value, const Arguments& arguments, Budget&) {
  ASSIGN_OR_RETURN(const auto bound, arguments.bind({"default"}));
  if (value.is_number()) return Value::number(value.as_double());
  if (value.is_string()) {
    if (const auto number = parse_double(trim(value.as_string()))) return Value::number(*number);
  }
  return bound[0].value_or(Value::number(0));
}

Result<Value> absolute(const Value& value, const Arguments& arguments, Budget&) {
  ASSIGN_OR_RETURN(const auto none, arguments.bind({}));
  static_cast<void>(none);
  if (value.is_double()) return Value::number(std::abs(value.as_double()));
  ASSIGN_OR_RETURN(const int64_t number, expect_integer(value, "the number"));
  if (number == INT64_MIN) return Status::invalid_input("a number that is too large");
  return Value::integer(std::abs(number));
}

// Spaces before every line but the first; before blank ones only on request.
Result<Value> indent(const Value& value, const Arguments& arguments, Budget& budget) {
  ASSIGN_OR_RETURN(const auto bound, arguments.bind({"width", "first", "blank"}));
  int64_t width = 4;
  if (bound[0]) {
    ASSIGN_OR_RETURN(width, expect_integer(*bound[0], "width"));
  }
  if (width < 0 || width > 1000) return Status::invalid_input("width must be 0 to 1000");
  const std::string spaces(static_cast<size_t>(width), ' ');
  const bool blank = bound[2] && bound[2]->truthy();
  ASSIGN_OR_RETURN(const std::string text, to_text(value, budget));
  std::string result;
  bool first = true;
  for (const std::string_view line : split(text, '\n')) {
    RETURN_IF_ERROR(budget.charge(width + static_cast<int64_t>(line.size())));
    if (!first) result += '\n';
    const bool wanted = first ? bound[1] && bound[1]->truthy() : blank || !line.empty();
    if (wanted) result += spaces;
    result += line;
    first = false;
  }
  return Value::string(std::move(result));
}

// The element, or the attribute of it that is named.
Result<Value> attribute_of(const Value& element, const Value& name, Budget& budget) {
  if (name.is_string() && name.as_string().find('.') != std::string::npos) {
    return Status::invalid_input("an attribute with a point is not supported");
  }
  return item_of(element, name, budget);
}

// select, reject: by a test of the element; selectattr, rejectattr: of its attribute.
template <bool kWanted, bool kOfAttribute>
Result<Value> select(const Value& value, const Arguments& arguments, Budget& budget) {
  if (!arguments.keywords.empty()) return Status::invalid_input("takes no keyword arguments");
  const std::vector<Value>& given = arguments.positional;
  constexpr size_t kTestPlace = kOfAttribute ? 1 : 0;
  if (given.size() < kTestPlace) return Status::invalid_input("takes an attribute");
  const Test* test = nullptr;
  if (given.size() > kTestPlace) {
    ASSIGN_OR_RETURN(const std::string name, expect_string(given[kTestPlace], "the test"));
    test = find_test(name);
    if (test == nullptr) {
      return Status::invalid_input(fmt::format("the test \"{}\" is not supported", name));
    }
  }
  const std::vector<Value> rest(
      given.begin() + static_cast<std::ptrdiff_t>(std::min(given.size(), kTestPlace + 1)),
      given.end());
  ASSIGN_OR_RETURN(const ValueList elements, elements_of(value, budget));
  ValueList kept;
  for (const Value& element : elements) {
    RETURN_IF_ERROR(budget.charge(Budget::kStep));
    Value subject = element;
    if (kOfAttribute) {
      ASSIGN_OR_RETURN(subject, attribute_of(element, given[0], budget));
    }
    bool passes = subject.truthy();
    if (test != nullptr) {
      ASSIGN_OR_RETURN(passes, apply_test(*test, subject, rest, budget));
    }
    if (passes == kWanted) kept.push_back(element);
  }
  return Value::list(std::move(kept));
}

// map(attribute="x"), map("filter", arguments...)
Result<Value> map(const Value& value, const Arguments& arguments, Budget& budget) {
  ASSIGN_OR_RETURN(const ValueList elements, elements_of(value, budget));
  ValueList mapped;
  if (arguments.positional.empty()) {
    ASSIGN_OR_RETURN(const auto bound, arguments.bind({"attribute", "default"}));
    if (!bound[0]) return Status::invalid_input("takes a filter or an attribute");
    for (const Value& element : elements) {
      ASSIGN_OR_RETURN(Value member, attribute_of(element, *bound[0], budget));
      if (member.is_undefined() && bound[1]) member = *bound[1];
      mapped.push_back(std::move(member));
    }
    return Value::list(std::move(mapped));
  }
  ASSIGN_OR_RETURN(const std::string name, expect_string(arguments.positional[0], "the filter"));
  const Filter* filter = find_filter(name);
  // A map of maps could recurse without end.
  if (filter == nullptr || name == "map") {
    return Status::invalid_input(fmt::format("the filter \"{}\" is not supported here", name));
  }
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin());
  for (const Value& element : elements) {
    RETURN_IF_ERROR(budget.charge(Budget::kStep));
    ASSIGN_OR_RETURN(Value result, filter->apply(element, rest, budget));
    mapped.push_back(std::move(result));
  }
  return Value::list(std::move(mapped));
}

// Elements without those that are equal to an earlier one. O(n^2), charged.
Result<Value> unique(const Value& value, const Arguments& arguments, Budget& budget) {
  ASSIGN_OR_RETURN(const auto none, arguments.bind({}));
  static_cast<void>(none);
  ASSIGN_OR_RETURN(const ValueList elements, elements_of(value, budget));
  ValueList kept;
  for (const Value& element : elements) {
    bool known = false;
    for (size_t i = 0; i < kept.size() && !known; ++i) {
      ASSIGN_OR_RETURN(known, values_equal(kept[i], element, budget));
    }
    if (!known) kept.push_back(element);
  }
  return Value::list(std::move(kept));
}

constexpr Filter kFilters[] = {
    {"trim", by_method<kStrip>},
    {"upper", by_method<kUpper>},
    {"lower", by_method<kLower>},
    {"title", by_method<kTitle>},
    {"capitalize", by_method<kCapitalize>},
    {"replace", by_method<kReplace>},
    {"length", length},
    {"count", length},
    {"tojson", tojson},
    {"default", or_default},
    {"d", or_default},
    {"join", join},
    {"items", items},
    {"list", to_list},
    {"string", to_string},
    {"safe", to_string},
    {"first", end_element<false>},
    {"last", end_element<true>},
    {"reverse", reverse},
    {"int", to_integer},
    {"float", to_float},
    {"abs", absolute},
    {"indent", indent},
    {"select", select<true, false>},
    {"reject", select<false, false>},
    {"selectattr", select<true, true>},
    {"rejectattr", select<false, true>},
    {"map", map},
    {"unique", unique},
};

}  // namespace

const Filter* find_filter(std::string_view name) {
  const auto* found = std::ranges::find(kFilters, name, &Filter::name);
  return found == std::end(kFilters) ? nullptr : found;
}

}  // namespace wideep::tokenizer
