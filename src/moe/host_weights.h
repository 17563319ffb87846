// All experts of the balanced layers once a host, in shared memory: where `weight_source: host`
// takes experts from. Migrations then need no peer, and a rank may get an expert that lives on
// another node without the network; the price is the memory of all experts on every host.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/share.h"
#include "base/shared_memory.h"
#include "base/status.h"
#include "dist/communicator.h"
#include "eplb/types.h"
#include "moe/migration.h"

namespace wideep::moe {

struct HostWeightsOptions {
  eplb::Shape shape;
  std::vector<std::vector<int>> placements;   // [layers][num_slots]
  std::vector<std::vector<SlotBytes>> slots;  // [layers][slots_per_rank] of this rank, loaded
  SharedMemoryOptions memory;
};

// Each rank of a host makes a segment for its share of the experts and maps those of the others.
class HostWeights : public ExpertSource {
 public:
  // Collective over the EP group. Memory is reserved on all hosts before anything is copied; errors
  // are those of SharedMemory. Experts come from the slots that hold them first.
  static Result<std::unique_ptr<HostWeights>> create(dist::Communicator& group,
                                                     const HostWeightsOptions& options);

  SlotBytes expert(int layer_index, int expert) const override;

  int64_t bytes_of_host() const { return bytes_of_host_; }
  // What people should know: leftovers that were removed, why pages are small; "" for nothing.
  const std::string& note() const { return note_; }

 private:
  // The experts in one rank's segment, layer by layer.
  struct RankShare {
    Share experts;
    SharedSegment segment;
  };

  HostWeights() = default;
  Status make_segments(dist::Communicator& host, const HostWeightsOptions& options, int world_rank);
  Status fill(dist::Communicator& group, dist::Communicator& host,
              const HostWeightsOptions& options);
  SlotBytes place(const RankShare& share, int layer_index, int expert) const;

  int64_t gate_up_bytes_ = 0;
  int64_t down_bytes_ = 0;
  std::vector<RankShare> shares_;  // [ranks of the host]
  int own_share_ = 0;
  int64_t bytes_of_host_ = 0;
  std::string note_;
};

}  // namespace wideep::moe
