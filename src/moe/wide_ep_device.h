// What the layers of backend WideEP share on a GPU: the exchange of rows, the placements as tables
// of the device, and counters of what came to each slot.
//
// Tables and counters keep their addresses, so that a captured decode step goes on after a
// placement has changed: tables are sent between two iterations, and counters come to the host
// behind the last op of one, to be read when the next begins.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/arena.h"
#include "base/buffer.h"
#include "base/status.h"
#include "base/stream.h"
#include "dist/communicator.h"
#include "eplb/replica_choice.h"
#include "kernels/replica_choice.h"
#include "kernels/transfer.h"
#include "moe/slot_exchange.h"

namespace wideep::moe {

class WideEpDevice {
 public:
  struct Options {
    SlotExchangeOptions exchange;
    eplb::ReplicaChoice choice = eplb::ReplicaChoice::kPerBatch;
    int num_layers = 0;
  };

  // Collective over the group, which outlives this as the stream does.
  static Result<std::unique_ptr<WideEpDevice>> create(Stream& stream, dist::Communicator& group,
                                                      const Options& options);
  // Of the device's memory, beside the arena.
  static Result<int64_t> device_bytes(const Options& options);

  // Counts what comes to the slots, from the next iteration on; before a step is captured.
  void start_counting() { is_counting_ = true; }
  // A layer's placement from the next begin_iteration() on. Once an iteration's counters are there
  // (rows_of_slots), or before the first.
  void place(int layer_index, std::span<const int> slots, std::span<const int64_t> quotas);
  void begin_iteration();
  // After the last op of an iteration was put on the stream.
  Status end_iteration();
  // [num_layers, num_slots] rows of all ranks that came to each slot in the iteration that ended
  // last; waits for it.
  std::span<const int32_t> rows_of_slots();

  // For the layers: the slots [pairs] of ids [pairs] of this rank, out. Collective.
  Status choose_slots(Arena& arena, int layer_index, std::span<const int32_t> ids,
                      std::span<int32_t> slots, LayerProfile* profile);
  static int64_t choice_scratch_bytes(const Options& options);
  SlotExchange& exchange() { return *exchange_; }
  const SlotExchange& exchange() const { return *exchange_; }
  // [num_slots] of the device; empty where nothing is counted.
  std::span<int32_t> counters(int layer_index) const;

 private:
  WideEpDevice(Stream& stream, int rank, const Options& options);
  Status allocate();
  std::span<int32_t> tables_of(const Buffer& tables, int layer_index) const;

  Stream& stream_;
  const int rank_;
  const Options options_;
  const kernels::ReplicaShape shape_;
  const int table_size_;  // int32
  std::unique_ptr<SlotExchange> exchange_;
  Buffer tables_;         // [num_layers, table_size]
  Buffer host_tables_;    // the same, pinned
  Buffer counters_;       // [num_layers, num_slots]
  Buffer host_counters_;  // the same, pinned
  bool is_counting_ = false;
  std::vector<int> changed_;  // layers whose tables the device does not have yet
  std::unique_ptr<kernels::Marker> ended_;
};

}  // namespace wideep::moe
