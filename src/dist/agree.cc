#include "dist/agree.h"

#include <fmt/format.h>

#include <array>

namespace wideep::dist {

Status agree(Communicator& group, const Status& own) {
  std::array<int64_t, 1> failed = {own.is_ok() ? 0 : 1 + group.rank()};
  RETURN_IF_ERROR(group.all_reduce_max(failed));
  if (!own.is_ok() || failed[0] == 0) return own;
  return Status::unavailable(fmt::format("rank {} failed: its error says why",
                                         group.world_ranks()[static_cast<size_t>(failed[0] - 1)]));
}

}  // namespace wideep::dist
