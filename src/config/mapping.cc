#include "config/mapping.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "base/check.h"
#include "config/limits.h"

namespace wideep {
namespace {

struct MoeSizes {
  int tp;
  int ep;
};

MoeSizes complete_moe_sizes(const ParallelConfig& sizes) {
  const int tp = sizes.tensor_parallel_size;
  const auto& moe_tp = sizes.moe_tensor_parallel_size;
  const auto& moe_ep = sizes.moe_expert_parallel_size;
  if (moe_tp && moe_ep) return {*moe_tp, *moe_ep};
  if (moe_tp) return {*moe_tp, std::max(1, tp / *moe_tp)};
  if (moe_ep) return {std::max(1, tp / *moe_ep), *moe_ep};
  return {tp, 1};
}

}  // namespace

std::vector<SizeBreach> Mapping::breaches(const ParallelConfig& sizes) {
  std::vector<SizeBreach> found;
  const int tp = sizes.tensor_parallel_size;
  const int pp = sizes.pipeline_parallel_size;
  const int cp = sizes.context_parallel_size;
  const MoeSizes moe = complete_moe_sizes(sizes);
  if (int64_t{moe.tp} * moe.ep != tp) {
    const bool by_ep = sizes.moe_expert_parallel_size.has_value();
    found.push_back({by_ep ? "moe_expert_parallel_size" : "moe_tensor_parallel_size",
                     fmt::format("{}", by_ep ? moe.ep : moe.tp),
                     fmt::format("moe_tensor_parallel_size {} x moe_expert_parallel_size {} = {}, "
                                 "must equal tensor_parallel_size {}",
                                 moe.tp, moe.ep, int64_t{moe.tp} * moe.ep, tp)});
  }
  const int64_t world = int64_t{tp} * pp * cp;
  if (world > kMaxRanks) {
    found.push_back(
        {"tensor_parallel_size", fmt::format("{}", tp),
         fmt::format("tensor_parallel_size {} x pipeline_parallel_size {} x context_parallel_size "
                     "{} = {} ranks, more than {}",
                     tp, pp, cp, world, kMaxRanks)});
  }
  const auto& partition = sizes.pp_partition;
  if (!partition.empty() && static_cast<int>(partition.size()) != pp) {
    found.push_back({"pp_partition", fmt::format("a list of {}", partition.size()),
                     fmt::format("must have an entry for each of the {} pipeline stages", pp)});
  }
  return found;
}

Result<Mapping> Mapping::create(const ParallelConfig& sizes) {
  std::vector<std::string> lines;
  for (const SizeBreach& breach : breaches(sizes)) {
    lines.push_back(fmt::format("{}: {}: {}", breach.key, breach.value, breach.rule));
  }
  if (!lines.empty()) return Status::invalid_input(fmt::format("{}", fmt::join(lines, "\n")));
  Mapping mapping;
  mapping.tp_ = sizes.tensor_parallel_size;
  mapping.pp_ = sizes.pipeline_parallel_size;
  mapping.cp_ = sizes.context_parallel_size;
  const MoeSizes moe = complete_moe_sizes(sizes);
  mapping.moe_tp_ = moe.tp;
  mapping.moe_ep_ = moe.ep;
  mapping.pp_partition_ = sizes.pp_partition;
  return mapping;
}

Result<Mapping> Mapping::create(const ParallelConfig& sizes, int world) {
  ASSIGN_OR_RETURN(Mapping mapping, create(sizes));
  if (mapping.world() != world) {
    return Status::invalid_input(
        fmt::format("tensor_parallel_size {} x pipeline_parallel_size {} x context_parallel_size "
                    "{} = {} ranks, "
                    "but {} were started",
                    mapping.tp_, mapping.pp_, mapping.cp_, mapping.world(), world));
  }
  return mapping;
}

Coordinates Mapping::coordinates(int rank) const {
  CHECK_GE(rank, 0);
  CHECK_LT(rank, world());
  const int tp_rank = rank % tp_;
  return {.tp_rank = tp_rank,
          .cp_rank = rank / tp_ % cp_,
          .pp_rank = rank / (tp_ * cp_),
          .moe_tp_rank = tp_rank / moe_ep_,
          .moe_ep_rank = tp_rank % moe_ep_};
}

int Mapping::rank_of(int tp_rank, int cp_rank, int pp_rank) const {
  return tp_rank + tp_ * (cp_rank + cp_ * pp_rank);
}

std::vector<int> Mapping::strided(int begin, int stride, int count) {
  std::vector<int> ranks(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) ranks[static_cast<size_t>(i)] = begin + i * stride;
  return ranks;
}

std::vector<int> Mapping::tp_group(int rank) const {
  return strided(rank - coordinates(rank).tp_rank, 1, tp_);
}

std::vector<int> Mapping::cp_group(int rank) const {
  return strided(rank - coordinates(rank).cp_rank * tp_, tp_, cp_);
}

std::vector<int> Mapping::pp_group(int rank) const {
  return strided(rank % (tp_ * cp_), tp_ * cp_, pp_);
}

std::vector<int> Mapping::moe_tp_group(int rank) const {
  return strided(rank - coordinates(rank).moe_tp_rank * moe_ep_, moe_ep_, moe_tp_);
}

std::vector<int> Mapping::moe_ep_group(int rank) const {
  return strided(rank - coordinates(rank).moe_ep_rank, 1, moe_ep_);
}

Mapping::Layers Mapping::layers(int pp_rank, int num_layers) const {
  CHECK_GE(pp_rank, 0);
  CHECK_LT(pp_rank, pp_);
  CHECK_LE(pp_, num_layers);
  if (!pp_partition_.empty()) {
    const auto stage = pp_partition_.begin() + pp_rank;
    const int begin = std::accumulate(pp_partition_.begin(), stage, 0);
    return {begin, begin + *stage};
  }
  const int even = num_layers / pp_;
  const int leftover = num_layers % pp_;
  const int begin = pp_rank * even + std::min(pp_rank, leftover);
  return {begin, begin + even + (pp_rank < leftover ? 1 : 0)};
}

}  // namespace wideep
