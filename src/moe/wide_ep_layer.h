// Backend WideEP: the tokens of each rank go to the slots of their experts, wherever these are, and
// come back summed.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "moe/moe_layer.h"
#include "moe/wide_ep.h"

namespace wideep::moe {

class WideEpLayer : public MoeLayer {
 public:
  struct Options {
    MoeShape shape;
    WideEp* wide_ep = nullptr;  // outlives the layer
    int layer_index = 0;        // in WideEpOptions::layers
    ExpertWeights slots;        // [slots_per_rank] of this rank
    // Sees the slots [tokens, top_k] of this rank's tokens, chunk by chunk; or none. On a GPU they
    // are memory of it.
    std::function<void(Stream& stream, std::span<const int32_t> slots)> on_slots;
  };
  explicit WideEpLayer(Options options);

  Status forward(Stream& stream, Arena& arena, const MoeInput& input,
                 std::span<const int> dp_tokens, MatrixView y) override;
  bool adds_residual() const override;
  int64_t scratch_bytes(int max_rows) const override;

 private:
  Status forward_chunk(Stream& stream, Arena& arena, const MoeInput& input, MatrixView y);
  // tokens: [ranks] of each in the chunk.
  Status forward_on_device(Stream& stream, Arena& arena, const MoeInput& input,
                           std::span<const int> tokens, MatrixView y);
  Status choose_slots(Stream& stream, Arena& arena, std::span<const int32_t> ids,
                      std::span<int32_t> slots);

  const Options options_;
};

}  // namespace wideep::moe
