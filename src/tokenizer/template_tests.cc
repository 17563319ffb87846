// The tests of chat templates ("x is string"): see template_builtins.h.
#include <fmt/format.h>

#include <algorithm>

#include "tokenizer/template_builtins.h"

namespace wideep::tokenizer {
namespace {

using Args = std::vector<Value>;

// Jinja: what can be indexed and has a length.
bool is_sequence(const Value& value) {
  return value.is_string() || value.as_list() != nullptr || value.as_map() != nullptr;
}

template <bool kWanted>
Result<bool> divides(const Value& value, const Value& divisor) {
  ASSIGN_OR_RETURN(const int64_t dividend, expect_integer(value, "the number"));
  ASSIGN_OR_RETURN(const int64_t by, expect_integer(divisor, "the divisor"));
  if (by == 0) return Status::invalid_input("division by zero");
  return (by == -1 || dividend % by == 0) == kWanted;
}

template <int kFirst, int kSecond>
Result<bool> ordered(const Value& a, const Args& b, Budget& budget) {
  ASSIGN_OR_RETURN(const int order, compare_order(a, b[0], budget));
  return order == kFirst || order == kSecond;  // NOLINT(misc-redundant-expression): may be equal
}

Result<bool> equal(const Value& a, const Args& b, Budget& budget) {
  return values_equal(a, b[0], budget);
}

Result<bool> unequal(const Value& a, const Args& b, Budget& budget) {
  ASSIGN_OR_RETURN(const bool same, values_equal(a, b[0], budget));
  return !same;
}

// A test that needs neither arguments nor budget.
template <bool (*kPredicate)(const Value&)>
Result<bool> simple(const Value& value, const Args&, Budget&) {
  return kPredicate(value);
}

constexpr Test kTests[] = {
    {"defined", 0, simple<[](const Value& v) { return !v.is_undefined(); }>},
    {"undefined", 0, simple<[](const Value& v) { return v.is_undefined(); }>},
    {"none", 0, simple<[](const Value& v) { return v.is_none(); }>},
    {"string", 0, simple<[](const Value& v) { return v.is_string(); }>},
    {"mapping", 0, simple<[](const Value& v) { return v.as_map() != nullptr; }>},
    {"sequence", 0, simple<is_sequence>},
    {"iterable", 0, simple<[](const Value& v) { return is_sequence(v) || v.is_undefined(); }>},
    {"number", 0, simple<[](const Value& v) { return v.is_number(); }>},
    {"integer", 0, simple<[](const Value& v) { return v.is_integer(); }>},
    {"float", 0, simple<[](const Value& v) { return v.is_double(); }>},
    {"boolean", 0, simple<[](const Value& v) { return v.is_boolean(); }>},
    {"true", 0, simple<[](const Value& v) { return v.is_boolean() && v.as_boolean(); }>},
    {"false", 0, simple<[](const Value& v) { return v.is_boolean() && !v.as_boolean(); }>},
    {"callable", 0, simple<[](const Value& v) { return v.is_callable(); }>},
    {"equalto", 1, equal},
    {"eq", 1, equal},
    {"==", 1, equal},
    {"ne", 1, unequal},
    {"!=", 1, unequal},
    {"lt", 1, ordered<-1, -1>},
    {"lessthan", 1, ordered<-1, -1>},
    {"<", 1, ordered<-1, -1>},
    {"le", 1, ordered<-1, 0>},
    {"<=", 1, ordered<-1, 0>},
    {"gt", 1, ordered<1, 1>},
    {"greaterthan", 1, ordered<1, 1>},
    {">", 1, ordered<1, 1>},
    {"ge", 1, ordered<1, 0>},
    {">=", 1, ordered<1, 0>},
    {"in", 1,
     [](const Value& v, const Args& a, Budget& budget) { return contains(a[0], v, budget); }},
    {"divisibleby", 1,
     [](const Value& v, const Args& a, Budget&) { return divides<true>(v, a[0]); }},
    {"even", 0,
     [](const Value& v, const Args&, Budget&) { return divides<true>(v, Value::integer(2)); }},
    {"odd", 0,
     [](const Value& v, const Args&, Budget&) { return divides<false>(v, Value::integer(2)); }},
};

}  // namespace

const Test* find_test(std::string_view name) {
  const auto* found = std::ranges::find(kTests, name, &Test::name);
  return found == std::end(kTests) ? nullptr : found;
}

Result<bool> apply_test(const Test& test, const Value& value, const std::vector<Value>& arguments,
                        Budget& budget) {
  if (static_cast<int>(arguments.size()) != test.num_arguments) {
    return Status::invalid_input(fmt::format("the test \"{}\" takes {} arguments, not {}",
                                             test.name, test.num_arguments, arguments.size()));
  }
  return test.apply(value, arguments, budget);
}

}  // namespace wideep::tokenizer
