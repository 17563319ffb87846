// The names of the engine's metrics, for who writes them (engine_metrics.h) and who reads them
// (`wideep eplb watch`). docs/metrics.md says what each means; a test holds the two together.
#pragma once

#include <array>
#include <string_view>

namespace wideep::engine::metric {

// The job. The first is written by base/metrics_file.h.
inline constexpr std::string_view kHeartbeat = "wideep_heartbeat_timestamp_seconds";
inline constexpr std::string_view kRunning = "wideep_running";
inline constexpr std::string_view kIterations = "wideep_iterations_total";
inline constexpr std::string_view kLastIteration = "wideep_last_iteration_timestamp_seconds";
inline constexpr std::string_view kTokens = "wideep_tokens_total";
inline constexpr std::string_view kRequestsRunning = "wideep_requests_running";
inline constexpr std::string_view kRequestsWaiting = "wideep_requests_waiting";
inline constexpr std::string_view kFreePages = "wideep_kv_cache_free_pages";

// The balancer. Those with the label layer (of the decoder, from 0) first.
inline constexpr std::string_view kImbalance = "wideep_eplb_imbalance_ratio";
inline constexpr std::string_view kImbalanceAverage = "wideep_eplb_imbalance_ratio_average";
inline constexpr std::string_view kImbalanceInOrder = "wideep_eplb_imbalance_ratio_in_order";
inline constexpr std::string_view kBefore = "wideep_eplb_update_imbalance_ratio_before";
inline constexpr std::string_view kAfter = "wideep_eplb_update_imbalance_ratio_after";
inline constexpr std::string_view kTransfers = "wideep_eplb_transfers_total";
inline constexpr std::string_view kTransferBytes = "wideep_eplb_transfer_bytes_total";
inline constexpr std::string_view kCommits = "wideep_eplb_commits_total";
inline constexpr std::string_view kPlans = "wideep_eplb_plans_total";  // outcome: moved, kept
inline constexpr std::string_view kPlannerSeconds = "wideep_eplb_planner_seconds_total";
inline constexpr std::string_view kWaitSeconds = "wideep_eplb_wait_seconds_total";
inline constexpr std::string_view kRanks = "wideep_eplb_ranks";
inline constexpr std::string_view kSlots = "wideep_eplb_slots";

inline constexpr std::array kAll = {
    kHeartbeat, kRunning,          kIterations,       kLastIteration,
    kTokens,    kRequestsRunning,  kRequestsWaiting,  kFreePages,
    kImbalance, kImbalanceAverage, kImbalanceInOrder, kBefore,
    kAfter,     kTransfers,        kTransferBytes,    kCommits,
    kPlans,     kPlannerSeconds,   kWaitSeconds,      kRanks,
    kSlots};

}  // namespace wideep::engine::metric
