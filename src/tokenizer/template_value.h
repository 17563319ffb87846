// The values of chat templates: Jinja's (that is, Python's) as far as templates use them. Lists,
// maps and strings are shared and never change; only a namespace does, and it can be in nothing
// else, so values form no cycles.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace wideep::tokenizer {

struct MacroStatement;
class Value;

using ValueList = std::vector<Value>;
using ValueMap = std::vector<std::pair<std::string, Value>>;  // in order of insertion

// What one rendering may still do. Every step and every byte made costs, so that no template runs
// long or makes much.
class Budget {
 public:
  static constexpr int64_t kStep = 16;          // an expression or a statement; a byte costs 1
  static constexpr int64_t kDefault = 1 << 27;  // 8 million steps or 134 MB
  explicit Budget(int64_t units = kDefault) : units_(units) {}

  Status charge(int64_t units) {
    units_ -= units;
    if (units_ >= 0) return Status::ok();
    return Status::invalid_input("the template does too much: too many steps or too much text");
  }

 private:
  int64_t units_;
};

class Value {
 public:
  // Functions that templates call by name.
  enum class Builtin { kRaiseException, kStrftimeNow, kRange, kNamespace, kDict };
  // The name of a variable, attribute or key that is not there.
  struct Undefined {
    std::shared_ptr<const std::string> name;
  };
  struct None {};
  struct List {
    ValueList items;
    int depth;
  };
  struct Map {
    ValueMap items;
    int depth;

    const Value* find(std::string_view key) const;
  };
  using Namespace = std::map<std::string, Value, std::less<>>;

  static constexpr int kMaxDepth = 100;

  Value() : data_(None{}) {}
  static Value undefined(std::string name);
  static Value boolean(bool value) { return Value(Data(value)); }
  static Value integer(int64_t value) { return Value(Data(value)); }
  static Value number(double value) { return Value(Data(value)); }
  static Value string(std::string text);
  // An error where the result would nest deeper than kMaxDepth or hold a namespace.
  static Result<Value> list(ValueList items);
  // Of equal keys the last one counts.
  static Result<Value> map(ValueMap items);
  static Value name_space() { return Value(Data(std::make_shared<Namespace>())); }
  static Value builtin(Builtin builtin) { return Value(Data(builtin)); }
  static Value macro(const MacroStatement* macro) { return Value(Data(macro)); }
  static Result<Value> from_json(const OrderedJson& json);

  bool is_undefined() const { return holds<Undefined>(); }
  bool is_none() const { return holds<None>(); }
  bool is_boolean() const { return holds<bool>(); }
  bool is_integer() const { return holds<int64_t>(); }
  bool is_double() const { return holds<double>(); }
  bool is_string() const { return holds<std::shared_ptr<const std::string>>(); }
  bool is_callable() const { return holds<Builtin>() || holds<const MacroStatement*>(); }
  // As in Python, booleans count as numbers.
  bool is_number() const { return is_boolean() || is_integer() || is_double(); }

  // Of the kind that the is_ function of that name says.
  bool as_boolean() const { return std::get<bool>(data_); }
  int64_t as_integer() const;  // a boolean too: 0 or 1
  double as_double() const;    // any number
  const std::string& as_string() const {
    return *std::get<std::shared_ptr<const std::string>>(data_);
  }
  // nullptr where it is something else.
  const ValueList* as_list() const;
  const Map* as_map() const;
  Namespace* as_namespace() const;
  const Builtin* as_builtin() const { return std::get_if<Builtin>(&data_); }
  const MacroStatement* as_macro() const;
  std::string_view undefined_name() const { return *std::get<Undefined>(data_).name; }

  // Python's bool().
  bool truthy() const;
  // "string", "list", ...: for errors.
  std::string_view type_name() const;

 private:
  using Data =
      std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const std::string>,
                   std::shared_ptr<const List>, std::shared_ptr<const Map>,
                   std::shared_ptr<Namespace>, Builtin, const MacroStatement*>;

  explicit Value(Data data) : data_(std::move(data)) {}
  template <typename T>
  bool holds() const {
    return std::holds_alternative<T>(data_);
  }
  int depth() const;

  Data data_;
};

// Python's ==. Charges what it compares.
Result<bool> values_equal(const Value& a, const Value& b, Budget& budget);

// Python's str(): what {{ value }} prints. "" for undefined.
Result<std::string> to_text(const Value& value, Budget& budget);

struct JsonStyle {
  int indent = -1;  // -1: all on one line
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};

// Python's json.dumps(); an error for what JSON cannot say.
Result<std::string> to_json_text(const Value& value, const JsonStyle& style, Budget& budget);

}  // namespace wideep::tokenizer
