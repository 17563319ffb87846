// Brings what ranks have to all of them.
#pragma once

#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "base/status.h"
#include "dist/communicator.h"

namespace wideep::cli {

// The elements of all ranks, in their order. Collective.
template <typename T>
Result<std::vector<T>> gather(dist::Communicator& group, std::span<const T> own) {
  static_assert(std::is_trivially_copyable_v<T>);
  const auto bytes = static_cast<int64_t>(own.size_bytes());
  std::vector<int64_t> counts(static_cast<size_t>(group.size()));
  RETURN_IF_ERROR(group.all_gather(std::as_bytes(std::span(&bytes, 1)),
                                   std::as_writable_bytes(std::span(counts))));
  int64_t total = 0;
  for (const int64_t count : counts) total += count;
  std::vector<T> all(static_cast<size_t>(total) / sizeof(T));
  RETURN_IF_ERROR(
      group.all_gather_v(std::as_bytes(own), counts, std::as_writable_bytes(std::span(all))));
  return all;
}

}  // namespace wideep::cli
