// Sizes that the hot path is built for: expert ids and slots are 16-bit there, a token's choices
// fit one warp's registers. Larger ones are refused at start, with the number.
#pragma once

namespace wideep {

inline constexpr int kMaxExperts = 1024;  // routed experts of a layer
inline constexpr int kMaxSlots = 32767;   // slots of a layer over all EP ranks
inline constexpr int kMaxTopK = 22;       // experts of a token
inline constexpr int kMaxGroups = 64;     // groups of experts that the router chooses from
inline constexpr int kMaxLayers = 1024;   // decoder layers, MTP included
inline constexpr int kMaxRanks = 1024;    // of the world

}  // namespace wideep
