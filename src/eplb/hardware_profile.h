// A model of the time that the MoE layers of one step take on a GPU, good enough to compare EP
// sizes, slots and placements before the GPUs are rented. It counts what balancing can change and
// leaves the rest of the model (attention, sampling) out.
//
// Of one layer, in seconds, with the tokens of each slot (rows of its GEMM), R ranks and D ranks in
// an NVLink domain:
//
//   rows(r)   = tokens(r) x send_ranks_per_token / top_k: a token goes once to each rank
//   dispatch  = latency + max over r of max(rows(r) (min(D, R) - 1) / R x row_bytes / link,
//                                           rows(r) max(R - D, 0) / R x row_bytes / network)
//   combine   = the same with 2 hidden_size bytes a row (bf16, summed on the rank)
//   gemm      = max over r of max(flops(r) / flop_rate, bytes(r) / hbm)
//   flops(r)  = sum over its slots of ceil(tokens / tile_rows) tile_rows x 6 hidden intermediate
//   bytes(r)  = slots with tokens x expert_bytes + tokens(r) x activation_bytes
//   layer     = dispatch + gemm + combine + layer_overhead
//
// row_bytes are those of DeepEP's dispatch: values, one 4-byte scale for 128 FP8 values, and 96
// bytes of ids and weights. A tile that is partly filled costs as much as a full one, and a slot
// with one token reads all its weights: these two make token counts a poor measure of time at small
// batches. Sources are assumed to send evenly, so a share 1 / R of a rank's rows is its own.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"
#include "eplb/types.h"

namespace wideep::eplb {

// What one GPU and its links reach in practice, not their data sheets.
struct HardwareProfile {
  std::string name;
  double fp8_flops = 0;          // FLOP/s of a grouped GEMM with 1-byte weights
  double bf16_flops = 0;         // FLOP/s with 2-byte weights
  double hbm_bandwidth = 0;      // bytes/s
  double link_bandwidth = 0;     // bytes/s, one direction, inside the NVLink domain
  double link_latency = 0;       // s of a dispatch or combine that carries nothing
  int link_ranks = 0;            // ranks of an NVLink domain
  double network_bandwidth = 0;  // bytes/s, one direction, a GPU's share between domains
  double network_latency = 0;    // s, instead of link_latency where ranks span domains
  int tile_rows = 0;             // rows of a GEMM tile
  double layer_overhead = 0;     // s a layer: router, quantisation, launches
};

// h100, h200 or gb200; else the path of a json file with the fields above as keys, and optionally
// "base", a built-in profile that gives the fields that are missing. Errors name the key.
Result<HardwareProfile> read_hardware_profile(const std::string& name_or_path);

// The sizes of a MoE layer; DeepSeek-V3's by default.
struct MoeModel {
  int hidden_size = 7168;
  int moe_intermediate_size = 2048;
  int top_k = 8;
  double bytes_per_weight = 1;  // 2: bf16, 1: FP8, 0.5: FP4 (computed at the FP8 rate)

  // Three matrices: gate, up and down.
  double expert_bytes() const {
    return 3.0 * hidden_size * moe_intermediate_size * bytes_per_weight;
  }
};

struct LayerTime {
  double dispatch = 0;  // s
  double gemm = 0;
  double combine = 0;
  double overhead = 0;

  double total() const { return dispatch + gemm + combine + overhead; }
};

// tokens_of_slot: [num_slots]. send_ranks_per_token: distinct ranks that a token goes to, its own
// included; in (0, top_k].
LayerTime layer_time(const HardwareProfile& profile, const MoeModel& model, const Shape& shape,
                     std::span<const int64_t> tokens_of_slot, double send_ranks_per_token);

// Bytes of one token's dispatch to one rank.
double dispatch_row_bytes(const MoeModel& model);

}  // namespace wideep::eplb
