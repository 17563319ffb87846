// Arithmetic and slices: see template_evaluator.h.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tokenizer/template_evaluator.h"

namespace wideep::tokenizer {
namespace {

Status too_large() {
  return Status::invalid_input("a number that is too large");
}

// Python's rounding: towards minus infinity.
int64_t floor_divide(int64_t a, int64_t b) {
  return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
}

Result<int64_t> power(int64_t base, int64_t exponent) {
  int64_t result = 1;
  for (int64_t i = 0; i < exponent; ++i) {
    if (__builtin_mul_overflow(result, base, &result)) return too_large();
    if (result == 0 || result == 1) break;  // of 0 and 1
    if (result == -1) return exponent % 2 != 0 ? -1 : 1;
  }
  return result;
}

Result<Value> integer_operation(std::string_view operation, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  if (operation == "+") {
    overflow = __builtin_add_overflow(a, b, &result);
  } else if (operation == "-") {
    overflow = __builtin_sub_overflow(a, b, &result);
  } else if (operation == "*") {
    overflow = __builtin_mul_overflow(a, b, &result);
  } else if (operation == "**") {
    if (b < 0) return Value::number(std::pow(static_cast<double>(a), static_cast<double>(b)));
    ASSIGN_OR_RETURN(result, power(a, b));
  } else {
    if (b == 0) return Status::invalid_input("division by zero");
    if (operation == "/") return Value::number(static_cast<double>(a) / static_cast<double>(b));
    if (b == -1) {  // INT64_MIN / -1 overflows
      overflow = operation == "//" && __builtin_sub_overflow(0, a, &result);
    } else {
      result = operation == "//" ? floor_divide(a, b) : a - floor_divide(a, b) * b;
    }
  }
  if (overflow) return too_large();
  return Value::integer(result);
}

Result<Value> double_operation(std::string_view operation, double a, double b) {
  if (operation == "+") return Value::number(a + b);
  if (operation == "-") return Value::number(a - b);
  if (operation == "*") return Value::number(a * b);
  if (operation == "**") return Value::number(std::pow(a, b));
  if (b == 0) return Status::invalid_input("division by zero");
  if (operation == "/") return Value::number(a / b);
  const double floored = std::floor(a / b);
  return Value::number(operation == "//" ? floored : a - floored * b);
}

Result<Value> repeat(const Value& value, int64_t count, Budget& budget) {
  count = std::max<int64_t>(count, 0);
  const ValueList* list = value.as_list();
  const auto size = static_cast<int64_t>(list != nullptr ? list->size() * Budget::kStep
                                                         : value.as_string().size());
  int64_t cost = 0;
  if (__builtin_mul_overflow(size + 1, count, &cost)) return too_large();
  RETURN_IF_ERROR(budget.charge(cost));
  std::string text;
  ValueList items;
  for (int64_t i = 0; i < count; ++i) {
    if (list != nullptr) {
      items.insert(items.end(), list->begin(), list->end());
    } else {
      text += value.as_string();
    }
  }
  return list != nullptr ? Value::list(std::move(items)) : Value::string(std::move(text));
}

Result<Value> concatenate(const Value& left, const Value& right, Budget& budget) {
  ASSIGN_OR_RETURN(std::string text, to_text(left, budget));
  ASSIGN_OR_RETURN(const std::string tail, to_text(right, budget));
  return Value::string(std::move(text) + tail);
}

bool is_repeatable(const Value& value) {
  return value.is_string() || value.as_list() != nullptr;
}

}  // namespace

Result<Value> binary_operation(std::string_view operation, const Value& left, const Value& right,
                               Budget& budget) {
  if (operation == "~") return concatenate(left, right, budget);
  if (left.is_number() && right.is_number()) {
    if (left.is_double() || right.is_double()) {
      return double_operation(operation, left.as_double(), right.as_double());
    }
    return integer_operation(operation, left.as_integer(), right.as_integer());
  }
  if (operation == "+" && left.is_string() && right.is_string()) {
    return concatenate(left, right, budget);
  }
  if (operation == "+" && left.as_list() != nullptr && right.as_list() != nullptr) {
    ASSIGN_OR_RETURN(ValueList items, elements_of(left, budget));
    ASSIGN_OR_RETURN(const ValueList tail, elements_of(right, budget));
    items.insert(items.end(), tail.begin(), tail.end());
    return Value::list(std::move(items));
  }
  if (operation == "*" && is_repeatable(left) && right.is_integer()) {
    return repeat(left, right.as_integer(), budget);
  }
  if (operation == "*" && left.is_integer() && is_repeatable(right)) {
    return repeat(right, left.as_integer(), budget);
  }
  for (const Value* side : {&left, &right}) {
    if (!side->is_undefined()) continue;
    return Status::invalid_input(fmt::format("\"{}\" is undefined", side->undefined_name()));
  }
  return Status::invalid_input(
      fmt::format("{} {} {}", left.type_name(), operation, right.type_name()));
}

Result<Value> slice_of(const Value& value, std::optional<int64_t> start,
                       std::optional<int64_t> stop, std::optional<int64_t> step, Budget& budget) {
  const ValueList* list = value.as_list();
  if (list == nullptr && !value.is_string()) {
    return Status::invalid_input(fmt::format("a slice of {}", value.type_name()));
  }
  std::vector<size_t> offsets;
  if (list == nullptr) offsets = character_offsets(value.as_string());
  const auto size = static_cast<int64_t>(list != nullptr ? list->size() : offsets.size() - 1);
  RETURN_IF_ERROR(budget.charge(Budget::kStep * size));
  const int64_t by = step.value_or(1);
  if (by == 0) return Status::invalid_input("a slice with step 0");
  // Backwards, "before the first" is -1 and "behind the last" is size - 1.
  const int64_t low = by > 0 ? 0 : -1;
  const int64_t high = by > 0 ? size : size - 1;
  const auto place = [&](std::optional<int64_t> index, int64_t fallback) {
    if (!index) return fallback;
    return std::clamp(*index < 0 ? *index + size : *index, low, high);
  };
  const int64_t first = place(start, by > 0 ? low : high);
  const int64_t last = place(stop, by > 0 ? high : low);
  ValueList items;
  std::string text;
  for (int64_t i = first; by > 0 ? i < last : i > last;) {
    const auto k = static_cast<size_t>(i);
    if (list != nullptr) {
      items.push_back((*list)[k]);
    } else {
      text.append(value.as_string(), offsets[k], offsets[k + 1] - offsets[k]);
    }
    if (__builtin_add_overflow(i, by, &i)) break;
  }
  return list != nullptr ? Value::list(std::move(items)) : Value::string(std::move(text));
}

}  // namespace wideep::tokenizer
