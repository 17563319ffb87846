#include "tokenizer/template_value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "tokenizer/utf8.h"

namespace wideep::tokenizer {
namespace {

// Python's repr() of a float: the shortest decimal that reads back, always with a point, an
// exponent or a word.
std::string double_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

// Python's repr() of a string.
std::string string_repr(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string result(1, quote);
  for (const char c : text) {
    if (c == quote || c == '\\') {
      result += '\\';
      result += c;
    } else if (c == '\n') {
      result += "\\n";
    } else if (c == '\r') {
      result += "\\r";
    } else if (c == '\t') {
      result += "\\t";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      result += fmt::format("\\x{:02x}", static_cast<int>(c));
    } else {
      result += c;
    }
  }
  return result + quote;
}

Status append_repr(const Value& value, Budget& budget, std::string& text);

Status append_list_repr(const ValueList& items, Budget& budget, std::string& text) {
  text += '[';
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) text += ", ";
    RETURN_IF_ERROR(append_repr(items[i], budget, text));
  }
  text += ']';
  return Status::ok();
}

Status append_map_repr(const ValueMap& items, Budget& budget, std::string& text) {
  text += '{';
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) text += ", ";
    text += string_repr(items[i].first) + ": ";
    RETURN_IF_ERROR(append_repr(items[i].second, budget, text));
  }
  text += '}';
  return Status::ok();
}

Status append_repr(const Value& value, Budget& budget, std::string& text) {
  const size_t before = text.size();
  if (value.is_string()) {
    text += string_repr(value.as_string());
  } else if (const ValueList* list = value.as_list()) {
    RETURN_IF_ERROR(append_list_repr(*list, budget, text));
  } else if (const Value::Map* map = value.as_map()) {
    RETURN_IF_ERROR(append_map_repr(map->items, budget, text));
  } else if (value.is_undefined()) {
    text += "Undefined";
  } else {
    ASSIGN_OR_RETURN(const std::string scalar, to_text(value, budget));
    text += scalar;
  }
  return budget.charge(static_cast<int64_t>(text.size() - before) + Budget::kStep);
}

// Writes JSON as Python's json.dumps does.
class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, Budget& budget) : style_(style), budget_(budget) {}

  Status write(const Value& value, int depth) {
    RETURN_IF_ERROR(budget_.charge(Budget::kStep));
    if (value.is_none()) {
      text_ += "null";
    } else if (value.is_boolean()) {
      text_ += value.as_boolean() ? "true" : "false";
    } else if (value.is_integer()) {
      text_ += fmt::format("{}", value.as_integer());
    } else if (value.is_double()) {
      write_double(value.as_double());
    } else if (value.is_string()) {
      return write_string(value.as_string());
    } else if (const ValueList* list = value.as_list()) {
      return write_items('[', ']', list->size(), depth,
                         [&](size_t i) { return write((*list)[i], depth + 1); });
    } else if (const Value::Map* map = value.as_map()) {
      return write_map(*map, depth);
    } else {
      return Status::invalid_input(fmt::format("JSON cannot say {}", value.type_name()));
    }
    return Status::ok();
  }

  std::string take() { return std::move(text_); }

 private:
  void write_double(double value) {
    if (std::isfinite(value)) {
      text_ += double_text(value);
    } else {
      text_ += std::isnan(value) ? "NaN" : value < 0 ? "-Infinity" : "Infinity";
    }
  }

  Status write_map(const Value::Map& map, int depth) {
    std::vector<const std::pair<std::string, Value>*> entries;
    for (const auto& entry : map.items) entries.push_back(&entry);
    if (style_.sort_keys) {
      std::ranges::sort(entries, {}, [](const auto* entry) { return entry->first; });
    }
    return write_items('{', '}', entries.size(), depth, [&](size_t i) {
      RETURN_IF_ERROR(write_string(entries[i]->first));
      text_ += style_.key_separator;
      return write(entries[i]->second, depth + 1);
    });
  }

  template <typename WriteItem>
  Status write_items(char open, char close, size_t count, int depth, const WriteItem& write_item) {
    text_ += open;
    for (size_t i = 0; i < count; ++i) {
      if (i > 0) text_ += style_.item_separator;
      RETURN_IF_ERROR(new_line(depth + 1));
      RETURN_IF_ERROR(write_item(i));
    }
    if (count > 0) RETURN_IF_ERROR(new_line(depth));
    text_ += close;
    return Status::ok();
  }

  Status new_line(int depth) {
    if (style_.indent < 0) return Status::ok();
    const int64_t spaces = int64_t{style_.indent} * depth;
    RETURN_IF_ERROR(budget_.charge(spaces));
    text_ += '\n';
    text_.append(static_cast<size_t>(spaces), ' ');
    return Status::ok();
  }

  Status write_string(std::string_view text) {
    RETURN_IF_ERROR(budget_.charge(static_cast<int64_t>(text.size())));
    text_ += '"';
    for (size_t position = 0; position < text.size();) {
      const size_t start = position;
      const char32_t c = next_code_point(text, position);
      static constexpr std::string_view kEscaped = "\"\\\n\r\t\b\f";
      static constexpr std::string_view kLetters = "\"\\nrtbf";
      const size_t known = c < 0x80 ? kEscaped.find(static_cast<char>(c)) : std::string_view::npos;
      if (known != std::string_view::npos) {
        text_ += '\\';
        text_ += kLetters[known];
      } else if (c < 0x20 || (style_.ensure_ascii && c > 0x7E)) {
        write_escape(c);
      } else {
        text_ += text.substr(start, position - start);
      }
    }
    text_ += '"';
    return Status::ok();
  }

  void write_escape(char32_t c) {
    if (c < 0x10000) {
      text_ += fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
      return;
    }
    const uint32_t pair = c - 0x10000;
    text_ += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (pair >> 10), 0xDC00 + (pair & 0x3FF));
  }

  const JsonStyle& style_;
  Budget& budget_;
  std::string text_;
};

Result<bool> lists_equal(const ValueList& a, const ValueList& b, Budget& budget) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    ASSIGN_OR_RETURN(const bool equal, values_equal(a[i], b[i], budget));
    if (!equal) return false;
  }
  return true;
}

Result<bool> maps_equal(const Value::Map& a, const Value::Map& b, Budget& budget) {
  if (a.items.size() != b.items.size()) return false;
  for (const auto& [key, value] : a.items) {
    RETURN_IF_ERROR(budget.charge(static_cast<int64_t>(b.items.size())));
    const Value* other = b.find(key);
    if (other == nullptr) return false;
    ASSIGN_OR_RETURN(const bool equal, values_equal(value, *other, budget));
    if (!equal) return false;
  }
  return true;
}

}  // namespace

const Value* Value::Map::find(std::string_view key) const {
  const auto found = std::ranges::find(
      items, key, [](const auto& item) -> std::string_view { return item.first; });
  return found == items.end() ? nullptr : &found->second;
}

Value Value::undefined(std::string name) {
  return Value(Data(Undefined{std::make_shared<const std::string>(std::move(name))}));
}

Value Value::string(std::string text) {
  return Value(Data(std::make_shared<const std::string>(std::move(text))));
}

int Value::depth() const {
  if (const auto* list = std::get_if<std::shared_ptr<const List>>(&data_)) return (*list)->depth;
  if (const auto* map = std::get_if<std::shared_ptr<const Map>>(&data_)) return (*map)->depth;
  return 0;
}

namespace {
Status check_depth(int depth) {
  if (depth <= Value::kMaxDepth) return Status::ok();
  return Status::invalid_input(fmt::format("values nested more than {} deep", Value::kMaxDepth));
}

Status check_item(const Value& item) {
  if (item.as_namespace() == nullptr) return Status::ok();
  return Status::invalid_input("a namespace in a list or map is not supported");
}
}  // namespace

Result<Value> Value::list(ValueList items) {
  int depth = 0;
  for (const Value& item : items) {
    RETURN_IF_ERROR(check_item(item));
    depth = std::max(depth, item.depth());
  }
  RETURN_IF_ERROR(check_depth(depth + 1));
  return Value(Data(std::make_shared<const List>(List{std::move(items), depth + 1})));
}

Result<Value> Value::map(ValueMap items) {
  // Stable, so that of equal keys the last one is the one that is kept, at its first place.
  std::map<std::string_view, size_t> places;
  ValueMap unique;
  int depth = 0;
  unique.reserve(items.size());
  for (auto& item : items) {
    RETURN_IF_ERROR(check_item(item.second));
    depth = std::max(depth, item.second.depth());
    const auto [place, added] = places.emplace(item.first, unique.size());
    if (added) {
      unique.emplace_back(item.first, std::move(item.second));
    } else {
      unique[place->second].second = std::move(item.second);
    }
  }
  RETURN_IF_ERROR(check_depth(depth + 1));
  return Value(Data(std::make_shared<const Map>(Map{std::move(unique), depth + 1})));
}

Result<Value> Value::from_json(const OrderedJson& json) {
  switch (json.type()) {
    case OrderedJson::value_t::null:
      return Value();
    case OrderedJson::value_t::boolean:
      return boolean(json.get<bool>());
    case OrderedJson::value_t::number_integer:
      return integer(json.get<int64_t>());
    case OrderedJson::value_t::number_unsigned: {
      const auto value = json.get<uint64_t>();
      return value > INT64_MAX ? number(json.get<double>()) : integer(json.get<int64_t>());
    }
    case OrderedJson::value_t::number_float:
      return number(json.get<double>());
    case OrderedJson::value_t::string: {
      const auto& text = json.get_ref<const std::string&>();
      if (find_invalid_utf8(text)) return Status::invalid_input("a string is not UTF-8");
      return string(text);
    }
    case OrderedJson::value_t::array: {
      ValueList items;
      for (const OrderedJson& element : json) {
        ASSIGN_OR_RETURN(Value item, from_json(element));
        items.push_back(std::move(item));
      }
      return list(std::move(items));
    }
    case OrderedJson::value_t::object: {
      ValueMap items;
      for (const auto& [key, element] : json.items()) {
        ASSIGN_OR_RETURN(Value item, from_json(element));
        items.emplace_back(key, std::move(item));
      }
      return map(std::move(items));
    }
    default:
      return Status::invalid_input("binary JSON is not supported");
  }
}

int64_t Value::as_integer() const {
  return is_boolean() ? as_boolean() : std::get<int64_t>(data_);
}

double Value::as_double() const {
  return is_double() ? std::get<double>(data_) : static_cast<double>(as_integer());
}

const ValueList* Value::as_list() const {
  const auto* list = std::get_if<std::shared_ptr<const List>>(&data_);
  return list == nullptr ? nullptr : &(*list)->items;
}

const Value::Map* Value::as_map() const {
  const auto* map = std::get_if<std::shared_ptr<const Map>>(&data_);
  return map == nullptr ? nullptr : map->get();
}

Value::Namespace* Value::as_namespace() const {
  const auto* found = std::get_if<std::shared_ptr<Namespace>>(&data_);
  return found == nullptr ? nullptr : found->get();
}

const MacroStatement* Value::as_macro() const {
  const auto* macro = std::get_if<const MacroStatement*>(&data_);
  return macro == nullptr ? nullptr : *macro;
}

bool Value::truthy() const {
  if (is_undefined() || is_none()) return false;
  if (is_number()) return as_double() != 0;
  if (is_string()) return !as_string().empty();
  if (const ValueList* list = as_list()) return !list->empty();
  if (const Map* map = as_map()) return !map->items.empty();
  return true;
}

std::string_view Value::type_name() const {
  static constexpr std::string_view kNames[] = {"an undefined value",
                                                "none",
                                                "a boolean",
                                                "an integer",
                                                "a float",
                                                "a string",
                                                "a list",
                                                "a map",
                                                "a namespace",
                                                "a function",
                                                "a macro"};
  static_assert(std::size(kNames) == std::variant_size_v<Data>);
  return kNames[data_.index()];
}

Result<bool> values_equal(const Value& a, const Value& b, Budget& budget) {
  RETURN_IF_ERROR(budget.charge(Budget::kStep / 2));
  if (a.is_number() && b.is_number()) {
    if (a.is_double() || b.is_double()) return a.as_double() == b.as_double();
    return a.as_integer() == b.as_integer();
  }
  if (a.is_string() && b.is_string()) {
    if (a.as_string().size() != b.as_string().size()) return false;
    RETURN_IF_ERROR(budget.charge(static_cast<int64_t>(a.as_string().size())));
    return a.as_string() == b.as_string();
  }
  if (a.as_list() != nullptr && b.as_list() != nullptr) {
    return lists_equal(*a.as_list(), *b.as_list(), budget);
  }
  if (a.as_map() != nullptr && b.as_map() != nullptr) {
    return maps_equal(*a.as_map(), *b.as_map(), budget);
  }
  return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

Result<std::string> to_text(const Value& value, Budget& budget) {
  if (value.is_string()) {
    RETURN_IF_ERROR(budget.charge(static_cast<int64_t>(value.as_string().size())));
    return value.as_string();
  }
  if (value.is_undefined()) return std::string();
  if (value.is_none()) return std::string("None");
  if (value.is_boolean()) return std::string(value.as_boolean() ? "True" : "False");
  if (value.is_integer()) return fmt::format("{}", value.as_integer());
  if (value.is_double()) return double_text(value.as_double());
  if (value.as_list() == nullptr && value.as_map() == nullptr) {
    return Status::invalid_input(fmt::format("{} cannot be printed", value.type_name()));
  }
  std::string text;
  RETURN_IF_ERROR(append_repr(value, budget, text));
  return text;
}

Result<std::string> to_json_text(const Value& value, const JsonStyle& style, Budget& budget) {
  JsonWriter writer(style, budget);
  RETURN_IF_ERROR(writer.write(value, 0));
  return writer.take();
}

}  // namespace wideep::tokenizer
