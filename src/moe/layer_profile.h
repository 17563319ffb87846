// Where the time of MoE layers goes. A layer says which of its phases begins (MoeLayer's begin()
// and meet()); without a profile that is a comparison with null.
//
// Waiting is told from work: before a phase in which ranks exchange data they all meet. A rank's
// time from its arrival there to the end of the meeting, less that of the rank for which it is
// shortest (the last to come, for which it is the price of meeting alone), is what it waited for
// the slowest rank. The phase itself then begins on all ranks at once. Meeting needs no common
// clock, so that it is the same for threads, processes, hosts and GPUs; what it costs is left out.
//
// On the CPU a rank that has no core of its own, because there are more ranks than cores, waits for
// one in whatever phase it is.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/stream.h"
#include "dist/communicator.h"
#include "kernels/stream_clock.h"

namespace wideep::moe {

enum class Phase {
  kBalancer,  // begin_iteration(): counts to the planner, staging, commits
  kRouter,    // product with the gate, choice of experts and weights
  kCounts,    // tokens of each expert: counted, exchanged, kept for the balancer
  kSplit,     // experts -> slots
  kDispatch,  // rows to the ranks of their experts and in the experts' order
  kExperts,   // grouped products and what is between them
  kCombine,   // rows back to their tokens, weighted and summed
  kWait,      // for the slowest rank
};
inline constexpr int kNumPhases = static_cast<int>(Phase::kWait) + 1;
std::string_view phase_name(Phase phase);

class LayerProfile {
 public:
  // meet: returns when all ranks of the group have called it, or on a GPU puts on the stream what
  // does so.
  LayerProfile(const Stream& stream, std::function<Status()> meet);

  // What the stream does from here to the next phase is of this one.
  void begin(Stream& stream, Phase phase) { clock_->mark(stream, static_cast<int>(phase)); }
  // The same once all ranks have come here. Collective.
  Status meet(Stream& stream, Phase phase);
  // The time from here to the next phase is nobody's.
  void end(Stream& stream) { clock_->mark(stream, kNobody); }

  // Microseconds of each phase since the last call, [ranks of the group]. Collective; waits for the
  // stream. All ranks have gone through the same phases.
  using Times = std::array<double, kNumPhases>;
  Result<std::vector<Times>> finish(Stream& stream, dist::Communicator& group);

 private:
  static constexpr int kNobody = -1;

  std::unique_ptr<kernels::StreamClock> clock_;
  std::function<Status()> meet_;
};

// For what a layer calls: null where no profile is taken.
inline void begin_phase(LayerProfile* profile, Stream& stream, Phase phase) {
  if (profile != nullptr) profile->begin(stream, phase);
}
inline Status meet_for_phase(LayerProfile* profile, Stream& stream, Phase phase) {
  return profile == nullptr ? Status::ok() : profile->meet(stream, phase);
}

}  // namespace wideep::moe
