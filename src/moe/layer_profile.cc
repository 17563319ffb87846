#include "moe/layer_profile.h"

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>

namespace wideep::moe {

std::string_view phase_name(Phase phase) {
  constexpr std::array<std::string_view, kNumPhases> kNames = {
      "balancer", "router", "counts", "split", "dispatch", "experts", "combine", "wait"};
  return kNames[static_cast<size_t>(phase)];
}

LayerProfile::LayerProfile(const Stream& stream, std::function<Status()> meet)
    : clock_(kernels::StreamClock::create(stream)), meet_(std::move(meet)) {}

Status LayerProfile::meet(Stream& stream, Phase phase) {
  begin(stream, Phase::kWait);
  RETURN_IF_ERROR(meet_());
  begin(stream, phase);
  return Status::ok();
}

Result<std::vector<LayerProfile::Times>> LayerProfile::finish(Stream& stream,
                                                              dist::Communicator& group) {
  ASSIGN_OR_RETURN(const std::vector<kernels::Lap> own, clock_->laps(stream));
  const size_t count = own.size();
  std::vector<kernels::Lap> all(count * static_cast<size_t>(group.size()));
  RETURN_IF_ERROR(
      group.all_gather(std::as_bytes(std::span(own)), std::as_writable_bytes(std::span(all))));
  std::vector<Times> times(static_cast<size_t>(group.size()), Times{});
  for (size_t i = 0; i < count; ++i) {
    const int phase = own[i].label;
    if (phase == kNobody) continue;
    double unavoidable = 0;  // of a meeting
    if (phase == static_cast<int>(Phase::kWait)) {
      unavoidable = own[i].us;
      for (size_t r = 0; r < times.size(); ++r) {
        unavoidable = std::min(unavoidable, all[r * count + i].us);
      }
    }
    for (size_t r = 0; r < times.size(); ++r) {
      CHECK_EQ(all[r * count + i].label, phase);
      times[r][static_cast<size_t>(phase)] += all[r * count + i].us - unavoidable;
    }
  }
  return times;
}

}  // namespace wideep::moe
