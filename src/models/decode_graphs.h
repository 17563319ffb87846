// Decode steps as graphs, one for each padded number of sequences (cuda_graph_config).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "base/status.h"
#include "base/stream.h"
#include "kernels/op_graph.h"

namespace wideep::models {

class DecodeGraphs {
 public:
  // Sizes ascending; none: every step runs eagerly.
  DecodeGraphs(std::vector<int> sizes, bool enable_padding)
      : sizes_(std::move(sizes)), enable_padding_(enable_padding) {}

  // The size that a step of so many sequences is padded to; 0 where no graph fits it.
  int padded(int num_sequences) const;

  // Runs a step of a padded size. The first one runs eagerly, so that libraries choose their
  // kernels; the second one is captured; from then on the graph is replayed. `buffers`: where the
  // step writes to; another graph is made for another place. Replays go through `launch`, which
  // calls what it is given once.
  using Launch = std::function<Status(const std::function<Status()>&)>;
  Status run(Stream& stream, int size, const void* buffers, const std::function<Status()>& step,
             const Launch& launch);

 private:
  struct Entry {
    const void* buffers = nullptr;
    bool has_run = false;
    std::unique_ptr<kernels::OpGraph> graph;
  };

  std::vector<int> sizes_;
  bool enable_padding_;
  std::map<int, Entry> entries_;
};

}  // namespace wideep::models
