#include "eplb/hardware_profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "base/text.h"

namespace wideep::eplb {
namespace {

// Where the figures come from (all for one GPU and one direction):
//   FP8 GEMM    DeepGEMM's README, grouped contiguous, H800: 1214 to 1381 TFLOP/s
//   BF16 GEMM   cuBLAS 8192^3, measured: 790 to 800 TFLOP/s
//   HBM         device copy, read + write: H100 3.02 TB/s measured, H200 4.3 TB/s
//   link        NVLink stores to a peer, measured on H200: 348 to 367 GB/s of 450
//   latency     packet all-to-all of 8 ranks in a CUDA graph, published for H200: 5.8 us
//   network     DeepEP between nodes, ConnectX-7, 16 H200: 41 to 44 GB/s of 50
// gb200: NVLink 640 to 650 of 900 GB/s published; barrier-based exchange of 8 GPUs 6.5 us
// published; GEMM and HBM are estimates: 0.7 of the dense data-sheet rate, 0.8 of 8 TB/s.
// network_latency and layer_overhead are estimates for all three.
std::vector<HardwareProfile> built_in_profiles() {
  const HardwareProfile h100 = {.name = "h100",
                                .fp8_flops = 1250e12,
                                .bf16_flops = 790e12,
                                .hbm_bandwidth = 3.0e12,
                                .link_bandwidth = 350e9,
                                .link_latency = 6e-6,
                                .link_ranks = 8,
                                .network_bandwidth = 43e9,
                                .network_latency = 20e-6,
                                .tile_rows = 64,
                                .layer_overhead = 10e-6};
  HardwareProfile h200 = h100;
  h200.name = "h200";
  h200.hbm_bandwidth = 4.3e12;
  const HardwareProfile gb200 = {.name = "gb200",
                                 .fp8_flops = 3100e12,
                                 .bf16_flops = 1600e12,
                                 .hbm_bandwidth = 6.4e12,
                                 .link_bandwidth = 645e9,
                                 .link_latency = 6.5e-6,
                                 .link_ranks = 72,
                                 .network_bandwidth = 43e9,
                                 .network_latency = 20e-6,
                                 .tile_rows = 128,
                                 .layer_overhead = 10e-6};
  return {h100, h200, gb200};
}

std::optional<HardwareProfile> find_built_in(std::string_view name) {
  for (HardwareProfile& profile : built_in_profiles()) {
    if (profile.name == name) return std::move(profile);
  }
  return std::nullopt;
}

struct RealField {
  std::string_view key;
  double HardwareProfile::*field;
};
struct IntField {
  std::string_view key;
  int HardwareProfile::*field;
};
constexpr std::array<RealField, 8> kRealFields = {{
    {"fp8_flops", &HardwareProfile::fp8_flops},
    {"bf16_flops", &HardwareProfile::bf16_flops},
    {"hbm_bandwidth", &HardwareProfile::hbm_bandwidth},
    {"link_bandwidth", &HardwareProfile::link_bandwidth},
    {"link_latency", &HardwareProfile::link_latency},
    {"network_bandwidth", &HardwareProfile::network_bandwidth},
    {"network_latency", &HardwareProfile::network_latency},
    {"layer_overhead", &HardwareProfile::layer_overhead},
}};
constexpr std::array<IntField, 2> kIntFields = {{
    {"link_ranks", &HardwareProfile::link_ranks},
    {"tile_rows", &HardwareProfile::tile_rows},
}};

// Latencies and overheads may be zero; rates may not.
bool may_be_zero(std::string_view key) {
  return key.ends_with("_latency") || key.ends_with("_overhead");
}

Status set_field(HardwareProfile& profile, const std::string& path, const std::string& key,
                 const Json& value) {
  for (const RealField& known : kRealFields) {
    if (key != known.key) continue;
    const double number = value.is_number() ? value.get<double>() : -1;
    if (!(number > 0 || (number == 0 && may_be_zero(key))) || number > 1e30) {
      return Status::invalid_input(fmt::format("{}: {}: must be a number {} 0 (SI units)", path,
                                               key, may_be_zero(key) ? ">=" : ">"));
    }
    profile.*known.field = number;
    return Status::ok();
  }
  for (const IntField& known : kIntFields) {
    if (key != known.key) continue;
    const int64_t number = value.is_number_integer() ? value.get<int64_t>() : 0;
    if (number < 1 || number > 1 << 20) {
      return Status::invalid_input(fmt::format("{}: {}: must be an integer >= 1", path, key));
    }
    profile.*known.field = static_cast<int>(number);
    return Status::ok();
  }
  std::vector<std::string_view> keys = {"base", "name"};
  for (const auto& known : kRealFields) keys.push_back(known.key);
  for (const auto& known : kIntFields) keys.push_back(known.key);
  const std::string nearest = nearest_word(key, keys);
  return Status::invalid_input(fmt::format("{}: {}: unknown key; {}", path, key,
                                           nearest.empty()
                                               ? fmt::format("known: {}", fmt::join(keys, ", "))
                                               : fmt::format("did you mean {}?", nearest)));
}

Status check_complete(const HardwareProfile& profile, const Json& json, const std::string& path) {
  if (profile.fp8_flops > 0 && json.contains("base")) return Status::ok();
  const auto missing = [&](std::string_view key) {
    return Status::invalid_input(fmt::format(
        "{}: {}: missing; add it, or \"base\": \"h100\", \"h200\" or \"gb200\"", path, key));
  };
  for (const RealField& known : kRealFields) {
    if (!json.contains(known.key)) return missing(known.key);
  }
  for (const IntField& known : kIntFields) {
    if (!json.contains(known.key)) return missing(known.key);
  }
  return Status::ok();
}

Result<HardwareProfile> parse_profile(const Json& json, const std::string& path) {
  if (!json.is_object()) {
    return Status::invalid_input(fmt::format("{}: must be a json object of profile fields", path));
  }
  HardwareProfile profile;
  profile.name = path;
  if (json.contains("base")) {
    const Json& base = json["base"];
    const auto found = base.is_string() ? find_built_in(base.get<std::string>()) : std::nullopt;
    if (!found) {
      return Status::invalid_input(fmt::format("{}: base: must be h100, h200 or gb200", path));
    }
    profile = *found;
    profile.name = path;
  }
  for (const auto& [key, value] : json.items()) {
    if (key == "base") continue;
    if (key == "name" && value.is_string()) {
      profile.name = value.get<std::string>();
      continue;
    }
    RETURN_IF_ERROR(set_field(profile, path, key, value));
  }
  RETURN_IF_ERROR(check_complete(profile, json, path));
  return profile;
}

// GEMM time of one rank, see the head of the header.
double rank_gemm_time(const HardwareProfile& profile, const MoeModel& model,
                      std::span<const int64_t> tokens_of_slot) {
  const double hidden = model.hidden_size, intermediate = model.moe_intermediate_size;
  int64_t padded = 0, tokens = 0;
  int touched = 0;
  for (const int64_t rows : tokens_of_slot) {
    padded += (rows + profile.tile_rows - 1) / profile.tile_rows * profile.tile_rows;
    tokens += rows;
    touched += rows > 0;
  }
  const double rate = model.bytes_per_weight > 1 ? profile.bf16_flops : profile.fp8_flops;
  const double flops = 6.0 * hidden * intermediate * static_cast<double>(padded);
  // Read the input, write gate and up (bf16), read both, write and read the product, write bf16.
  const double value_bytes = model.bytes_per_weight > 1 ? 2 : model.bytes_per_weight;
  const double activation_bytes = hidden * (value_bytes + 2) + intermediate * (8 + 2 * value_bytes);
  const double bytes =
      touched * model.expert_bytes() + static_cast<double>(tokens) * activation_bytes;
  return std::max(flops / rate, bytes / profile.hbm_bandwidth);
}

}  // namespace

Result<HardwareProfile> read_hardware_profile(const std::string& name_or_path) {
  if (auto found = find_built_in(name_or_path)) return *std::move(found);
  if (!path_exists(name_or_path)) {
    return Status::not_found(fmt::format(
        "--profile {}: neither h100, h200, gb200 nor a file that exists", name_or_path));
  }
  ASSIGN_OR_RETURN(const Json json, read_json(name_or_path));
  return parse_profile(json, name_or_path);
}

double dispatch_row_bytes(const MoeModel& model) {
  constexpr double kMetadata = 96;  // ids, weights, counters
  if (model.bytes_per_weight > 1) return 2.0 * model.hidden_size + kMetadata;
  if (model.bytes_per_weight == 1) {
    return model.hidden_size + model.hidden_size / 128.0 * 4 + kMetadata;
  }
  // FP4: a one-byte scale for 16 values.
  return model.hidden_size / 2.0 + model.hidden_size / 16.0 + kMetadata;
}

LayerTime layer_time(const HardwareProfile& profile, const MoeModel& model, const Shape& shape,
                     std::span<const int64_t> tokens_of_slot, double send_ranks_per_token) {
  const int slots_per_rank = shape.slots_per_rank();
  int64_t most_tokens = 0;
  LayerTime time;
  for (int r = 0; r < shape.num_ranks; ++r) {
    const auto slots = tokens_of_slot.subspan(static_cast<size_t>(r) * slots_per_rank,
                                              static_cast<size_t>(slots_per_rank));
    int64_t tokens = 0;
    for (const int64_t rows : slots) tokens += rows;
    most_tokens = std::max(most_tokens, tokens);
    time.gemm = std::max(time.gemm, rank_gemm_time(profile, model, slots));
  }
  const double ranks = shape.num_ranks, domain = std::min(profile.link_ranks, shape.num_ranks);
  const double rows = static_cast<double>(most_tokens) * send_ranks_per_token / model.top_k;
  const double linked = rows * (domain - 1) / ranks, networked = rows * (ranks - domain) / ranks;
  const double latency = shape.num_ranks == 1 ? 0
                         : networked > 0      ? profile.network_latency
                                              : profile.link_latency;
  const auto exchange = [&](double row_bytes) {
    return latency + std::max(linked * row_bytes / profile.link_bandwidth,
                              networked * row_bytes / profile.network_bandwidth);
  };
  time.dispatch = exchange(dispatch_row_bytes(model));
  time.combine = exchange(2.0 * model.hidden_size);
  time.overhead = profile.layer_overhead;
  return time;
}

}  // namespace wideep::eplb
