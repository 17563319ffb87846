#include "engine/dp_exchange.h"

#include <algorithm>
#include <vector>

namespace wideep::engine {
namespace {

struct DpState {
  int64_t num_tokens = 0;
  int64_t is_decode = 0;
  moe::RankState balancer;
};

}  // namespace

Result<bool> exchange_dp_state(const dist::Groups& groups, models::Model& model,
                               models::Batch& batch) {
  moe::WideEp* wide_ep = model.wide_ep();
  DpState own;
  own.num_tokens = std::ssize(batch.token_ids);
  own.is_decode = batch.is_decode() ? 1 : 0;
  if (wide_ep != nullptr) own.balancer = wide_ep->state();
  std::vector<DpState> all(static_cast<size_t>(groups.tp->size()));
  RETURN_IF_ERROR(groups.tp->all_gather(std::as_bytes(std::span(&own, 1)),
                                        std::as_writable_bytes(std::span(all))));
  batch.dp_tokens.clear();
  batch.balancer_states.clear();
  batch.all_decode =
      std::ranges::all_of(all, [](const DpState& state) { return state.is_decode != 0; });
  for (const DpState& state : all) {
    batch.dp_tokens.push_back(static_cast<int>(state.num_tokens));
    if (wide_ep != nullptr) batch.balancer_states.push_back(state.balancer);
  }
  return std::ranges::any_of(batch.dp_tokens, [](int tokens) { return tokens > 0; });
}

}  // namespace wideep::engine
