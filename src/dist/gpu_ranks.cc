#include "dist/gpu_ranks.h"

#include <algorithm>
#include <map>
#include <span>
#include <vector>

#include "base/cuda.h"
#include "dist/agree.h"

namespace wideep::dist {

Result<int> most_ranks_of_a_gpu(Communicator& group) {
  const Result<GpuUuid> own = current_gpu_uuid();
  RETURN_IF_ERROR(agree(group, own.status()));
  std::vector<GpuUuid> all(static_cast<size_t>(group.size()));
  RETURN_IF_ERROR(
      group.all_gather(std::as_bytes(std::span(*own)), std::as_writable_bytes(std::span(all))));
  std::map<GpuUuid, int> ranks;
  int most = 0;
  for (const GpuUuid& gpu : all) most = std::max(most, ++ranks[gpu]);
  return most;
}

}  // namespace wideep::dist
