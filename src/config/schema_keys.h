// Makers of keys for the common types. FIELD names a member, possibly of a member, of the
// configuration: FIELD(moe.max_num_tokens); of an optional map: FIELD(cuda_graph->enable_padding).
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/text.h"
#include "config/schema.h"

#define FIELD(member)         \
  [](auto& config) -> auto& { \
    return config.member;     \
  }

namespace wideep {

template <typename T>
struct IsOptional : std::false_type {};
template <typename T>
struct IsOptional<std::optional<T>> : std::true_type {};

struct IntRange {
  int64_t min;
  int64_t max = 2147483647;
};

inline std::string int_type(IntRange range) {
  return range.max == IntRange{0}.max ? fmt::format("integer >= {}", range.min)
                                      : fmt::format("integer {} to {}", range.min, range.max);
}

// "must be an integer >= 1" for the type "integer >= 1".
std::string must_be(const std::string& type);

// A key of the field that `access` names: `parse` gives its value, or nullopt where the node breaks
// `type`; `print` writes it as YAML. A std::optional field may be null as well.
template <typename T, typename Access, typename Parse, typename Print>
Key<T> value_key(const std::string& path, Access access, std::string type, Parse parse, Print print,
                 const std::string& doc) {
  using Field = std::remove_reference_t<decltype(access(std::declval<T&>()))>;
  constexpr bool kNullable = IsOptional<Field>::value;
  if (kNullable) type += " or null";
  return {.path = path,
          .type = type,
          .doc = doc,
          .target = "",
          .read =
              [=](const ReadContext& context, const std::string& written, const YamlNode& node,
                  T& out) {
                if constexpr (kNullable) {
                  if (node.is_null()) return access(out).reset();
                }
                auto value = parse(node);
                if (!value) return context.fail(node, written, must_be(type));
                access(out) = *std::move(value);
              },
          .write = [=](const T& config) -> std::string {
            const auto& value = access(config);
            if constexpr (kNullable) {
              return value ? print(*value) : "null";
            } else {
              return print(value);
            }
          }};
}

inline std::optional<int> int_in(const YamlNode& node, IntRange range) {
  const std::optional<int64_t> value = scalar_int(node);
  if (!value || *value < range.min || *value > range.max) return std::nullopt;
  return static_cast<int>(*value);
}

template <typename T, typename Access>
Key<T> int_key(const std::string& path, Access access, IntRange range, const std::string& doc) {
  return value_key<T>(
      path, access, int_type(range), [range](const YamlNode& node) { return int_in(node, range); },
      [](int value) { return fmt::format("{}", value); }, doc);
}

template <typename T, typename Access>
Key<T> bool_key(const std::string& path, Access access, const std::string& doc) {
  return value_key<T>(
      path, access, "true or false", scalar_bool,
      [](bool value) { return std::string(value ? "true" : "false"); }, doc);
}

// A number in (0, 1].
template <typename T, typename Access>
Key<T> fraction_key(const std::string& path, Access access, const std::string& doc) {
  return value_key<T>(
      path, access, "number, more than 0, at most 1",
      [](const YamlNode& node) {
        std::optional<double> value = scalar_double(node);
        return value && *value > 0 && *value <= 1 ? value : std::nullopt;
      },
      yaml_double, doc);
}

struct NumberRange {
  double min;
  double max;
};

template <typename T, typename Access>
Key<T> number_key(const std::string& path, Access access, NumberRange range,
                  const std::string& doc) {
  return value_key<T>(
      path, access, fmt::format("number {} to {}", range.min, range.max),
      [range](const YamlNode& node) {
        std::optional<double> value = scalar_double(node);
        return value && *value >= range.min && *value <= range.max ? value : std::nullopt;
      },
      yaml_double, doc);
}

// A list of integers in the range; null is the empty list.
template <typename T, typename Access>
Key<T> list_key(const std::string& path, Access access, IntRange range, const std::string& doc) {
  const auto parse = [range](const YamlNode& node) -> std::optional<std::vector<int>> {
    std::vector<int> values;
    if (node.is_null()) return values;
    if (!node.is_list()) return std::nullopt;
    for (const YamlNode& item : node.items()) {
      const std::optional<int> value = int_in(item, range);
      if (!value) return std::nullopt;
      values.push_back(*value);
    }
    return values;
  };
  const auto print = [](const std::vector<int>& values) {
    return values.empty() ? "null" : yaml_list(values);
  };
  return value_key<T>(path, access, fmt::format("list of {}, or null", int_type(range)), parse,
                      print, doc);
}

// The spellings of an enum's values, the first of each value is the one that is written.
template <typename E>
using Spellings = std::vector<std::pair<std::string, E>>;

// What TensorRT-LLM also has there and why it is not here.
struct ForeignValues {
  std::vector<std::string> values;
  std::string reason;
};

template <typename E>
std::string spelling_of(const Spellings<E>& spellings, E value) {
  for (const auto& [name, named] : spellings) {
    if (named == value) return name;
  }
  return "";
}

// One word of the spellings, ASCII case ignored.
template <typename T, typename E, typename Access>
Key<T> enum_key(const std::string& path, Access access, Spellings<E> spellings,
                const std::string& doc, ForeignValues foreign = {}) {
  std::vector<std::string> names;
  for (const auto& spelling : spellings) names.push_back(spelling.first);
  Key<T> key = value_key<T>(
      path, access, fmt::format("{}", fmt::join(names, " | ")),
      [spellings](const YamlNode& node) -> std::optional<E> {
        for (const auto& [name, value] : spellings) {
          if (node.is_scalar() && to_lower(node.text()) == to_lower(name)) return value;
        }
        return std::nullopt;
      },
      [spellings](E value) { return spelling_of(spellings, value); }, doc);
  // Better words than "must be" where the value is a known one, or nearly one of ours.
  key.read = [read = key.read, type = key.type, names, foreign](const ReadContext& context,
                                                                const std::string& written,
                                                                const YamlNode& node, T& out) {
    const std::string word = node.is_scalar() ? to_lower(node.text()) : "";
    for (const std::string& value : foreign.values) {
      if (word == to_lower(value)) {
        return context.fail(node, written, fmt::format("{}: {}", must_be(type), foreign.reason));
      }
    }
    Violations mine;
    read({context.file, mine, context.origins, context.has_lines}, written, node, out);
    if (mine.empty()) return;
    context.fail(node, written, must_be(type) + did_you_mean(nearest(word, names)));
  };
  return key;
}

// A key that takes one value only, because there is nothing to choose; `reason` says why.
template <typename T>
Key<T> fixed_key(const std::string& path, std::string value, const std::string& reason) {
  const std::string doc = fmt::format("Only {}: {}", value, reason);
  return {
      .path = path,
      .type = value,
      .doc = doc,
      .target = "",
      .read =
          [=](const ReadContext& context, const std::string& written, const YamlNode& node, T&) {
            const std::optional<bool> boolean = scalar_bool(node);
            const std::string given = boolean          ? (*boolean ? "true" : "false")
                                      : node.is_null() ? "null"
                                                       : std::string(node.text());
            if (to_lower(given) != to_lower(value)) {
              context.fail(node, written, fmt::format("must be {}: {}", value, reason));
            }
          },
      .write = [=](const T&) { return value; }};
}

// A legacy key that is read by its target's rule.
template <typename T>
Key<T> alias_key(const std::string& path, const std::string& target) {
  return {.path = path, .type = "", .doc = "", .target = target, .read = nullptr, .write = nullptr};
}

// A map that is always there.
template <typename T>
Section<T> section(const std::string& path) {
  Section<T> section;
  section.path = path;
  return section;
}

// A map whose std::optional field `access` names; null empties it.
template <typename T, typename Access>
Section<T> optional_section(const std::string& path, Access access) {
  Section<T> section;
  section.path = path;
  section.enter = [access](T& out) {
    if (!access(out)) access(out).emplace();
  };
  section.clear = [access](T& out) { access(out).reset(); };
  section.present = [access](const T& config) { return access(config).has_value(); };
  return section;
}

}  // namespace wideep
