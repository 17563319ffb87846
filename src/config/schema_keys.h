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
struct is_optional : std::false_type {};
template <typename T>
struct is_optional<std::optional<T>> : std::true_type {};

struct IntRange {
  int64_t min;
  int64_t max = 2147483647;
};

inline std::string int_type(IntRange range) {
  return range.max == IntRange{0}.max ? fmt::format("integer >= {}", range.min)
                                      : fmt::format("integer {} to {}", range.min, range.max);
}

// An integer in the range; a std::optional<int> may be null as well.
template <typename T, typename Access>
Key<T> int_key(std::string path, Access access, IntRange range, std::string doc) {
  using Field = std::remove_reference_t<decltype(access(std::declval<T&>()))>;
  const std::string type = int_type(range) + (is_optional<Field>::value ? " or null" : "");
  return {.path = std::move(path),
          .type = type,
          .doc = std::move(doc),
          .target = "",
          .read =
              [=](const ReadContext& context, const std::string& written, const YamlNode& node,
                  T& out) {
                if constexpr (is_optional<Field>::value) {
                  if (node.is_null()) return access(out).reset();
                }
                const std::optional<int64_t> value = scalar_int(node);
                if (!value || *value < range.min || *value > range.max) {
                  return context.fail(node, written, "must be " + type);
                }
                access(out) = static_cast<int>(*value);
              },
          .write = [=](const T& config) -> std::string {
            const auto& value = access(config);
            if constexpr (is_optional<Field>::value) {
              return value ? fmt::format("{}", *value) : "null";
            } else {
              return fmt::format("{}", value);
            }
          }};
}

}  // namespace wideep
