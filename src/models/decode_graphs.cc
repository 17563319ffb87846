#include "models/decode_graphs.h"

#include <algorithm>

namespace wideep::models {

int DecodeGraphs::padded(int num_sequences) const {
  const auto size = std::ranges::lower_bound(sizes_, num_sequences);
  if (num_sequences == 0 || size == sizes_.end()) return 0;
  return enable_padding_ || *size == num_sequences ? *size : 0;
}

Status DecodeGraphs::run(Stream& stream, int size, const void* buffers,
                         const std::function<Status()>& step, const Launch& launch) {
  Entry& entry = entries_[size];
  if (entry.buffers != buffers) entry = {buffers, false, nullptr};
  if (!entry.has_run) {
    entry.has_run = true;
    return step();
  }
  if (entry.graph == nullptr) {
    ASSIGN_OR_RETURN(entry.graph, kernels::OpGraph::capture(stream, step));
  }
  return launch([&] {
    entry.graph->replay(stream);
    return stream.status();
  });
}

}  // namespace wideep::models
