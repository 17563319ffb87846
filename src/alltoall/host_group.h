// What the transports in host memory share: shape, layout, counts, buffers. Internal to alltoall.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "alltoall/alltoall.h"
#include "alltoall/batch_layout.h"
#include "base/buffer.h"

namespace wideep::alltoall {

class HostGroup : public AllToAll {
 public:
  Status plan(Stream& stream, const Routing& routing) override;
  std::span<const int32_t> rows_of_slots() const override { return counts_; }

  // Of the most rows that a batch can bring to one rank.
  static int64_t bytes_of_rows(const GroupShape& shape);

 protected:
  HostGroup(dist::Communicator& group, const GroupShape& shape);
  // Takes the memory for received rows and outputs.
  Status allocate();

  int rank() const { return group_.rank(); }
  int size() const { return group_.size(); }
  const Routing& routing() const { return routing_; }
  // Multiplies a pair's row on its way out; 1 where the weights scaled the input.
  float output_weight(int64_t pair) const {
    return shape_.weight_scales_input ? 1.0F : routing_.weights[pair];
  }
  MatrixView rows() const;
  MatrixView outputs() const;
  Received received() const { return {rows(), layout_.offsets(), outputs()}; }

  dist::Communicator& group_;
  const GroupShape shape_;
  BatchLayout layout_;

 private:
  Routing routing_;
  std::vector<int32_t> counts_;  // [size, num_slots]
  Buffer rows_;
  Buffer outputs_;
};

// Copies a row of x to its place, times its weight where the weights scale the input.
void deliver_row(const GroupShape& shape, const float* from, float weight, float* to);

Result<std::unique_ptr<AllToAll>> make_shared_memory_group(dist::Communicator& group,
                                                           const GroupShape& shape);
Result<std::unique_ptr<AllToAll>> make_message_group(dist::Communicator& group,
                                                     const GroupShape& shape);
Result<std::unique_ptr<AllToAll>> make_gather_group(dist::Communicator& group,
                                                    const GroupShape& shape);

}  // namespace wideep::alltoall
