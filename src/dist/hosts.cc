#include "dist/hosts.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

namespace wideep::dist {

Result<std::unique_ptr<Communicator>> split_by_host(Communicator& group) {
  constexpr size_t kNameBytes = 256;
  std::array<char, kNameBytes> own{};
  if (::gethostname(own.data(), own.size() - 1) != 0) {
    return Status::io(fmt::format("gethostname: {}", std::strerror(errno)));
  }
  std::vector<std::array<char, kNameBytes>> all(static_cast<size_t>(group.size()));
  RETURN_IF_ERROR(
      group.all_gather(std::as_bytes(std::span(own)), std::as_writable_bytes(std::span(all))));
  const auto first = std::ranges::find(all, own) - all.begin();
  return group.split(static_cast<int>(first), group.rank());
}

}  // namespace wideep::dist
