#include "moe/wide_ep_device.h"

#include <utility>

#include "kernels/permute.h"
#include "moe/slot_tables.h"

namespace wideep::moe {
namespace {

using eplb::ReplicaChoice;
using kernels::ReplicaTables;

bool has_replicas(const eplb::Shape& shape) {
  return shape.num_slots > shape.num_experts;
}

int64_t counter_bytes(const WideEpDevice::Options& options) {
  return int64_t{options.num_layers} * options.exchange.shape.num_slots * int64_t{sizeof(int32_t)};
}
int64_t table_bytes(const WideEpDevice::Options& options) {
  return int64_t{options.num_layers} *
         ReplicaTables::of(replica_shape(options.exchange.shape)).size * int64_t{sizeof(int32_t)};
}

}  // namespace

WideEpDevice::WideEpDevice(Stream& stream, int rank, const Options& options)
    : stream_(stream),
      rank_(rank),
      options_(options),
      shape_(replica_shape(options.exchange.shape)),
      table_size_(ReplicaTables::of(shape_).size) {}

Result<std::unique_ptr<WideEpDevice>> WideEpDevice::create(Stream& stream,
                                                           dist::Communicator& group,
                                                           const Options& options) {
  std::unique_ptr<WideEpDevice> device(new WideEpDevice(stream, group.rank(), options));
  if (kernels::split_bytes(device->shape_) > kernels::kMaxSplitBytes ||
      device->shape_.num_ranks > kernels::kMaxSplitRanks ||
      device->shape_.num_experts > kernels::kMaxPermutationGroups) {
    return Status::invalid_input(
        "load_balancer.num_slots: more experts, slots or ranks than a GPU can choose among");
  }
  ASSIGN_OR_RETURN(device->exchange_, SlotExchange::create(stream, group, options.exchange));
  RETURN_IF_ERROR(device->allocate());
  return device;
}

Status WideEpDevice::allocate() {
  ASSIGN_OR_RETURN(tables_, Buffer::allocate(table_bytes(options_), MemorySpace::kDevice));
  ASSIGN_OR_RETURN(host_tables_, Buffer::allocate(table_bytes(options_), MemorySpace::kPinned));
  ASSIGN_OR_RETURN(counters_, Buffer::allocate(counter_bytes(options_), MemorySpace::kDevice));
  ASSIGN_OR_RETURN(host_counters_, Buffer::allocate(counter_bytes(options_), MemorySpace::kPinned));
  ASSIGN_OR_RETURN(ended_, kernels::Marker::create(stream_));
  return Status::ok();
}

Result<int64_t> WideEpDevice::device_bytes(const Options& options) {
  ASSIGN_OR_RETURN(const int64_t exchange, exchange_device_bytes(options.exchange));
  return exchange + table_bytes(options) + counter_bytes(options);
}

std::span<int32_t> WideEpDevice::tables_of(const Buffer& tables, int layer_index) const {
  CHECK(layer_index >= 0 && layer_index < options_.num_layers);
  const int64_t size = table_size_;
  return tables.span<int32_t>(size, layer_index * size * int64_t{sizeof(int32_t)});
}

std::span<int32_t> WideEpDevice::counters(int layer_index) const {
  if (!is_counting_) return {};
  CHECK(layer_index >= 0 && layer_index < options_.num_layers);
  const int64_t size = shape_.num_slots;
  return counters_.span<int32_t>(size, layer_index * size * int64_t{sizeof(int32_t)});
}

void WideEpDevice::place(int layer_index, std::span<const int> slots,
                         std::span<const int64_t> quotas) {
  // The tables that were sent from here before have left with the iteration that they were for.
  ended_->wait();
  write_slot_tables(options_.exchange.shape, slots, quotas, tables_of(host_tables_, layer_index));
  changed_.push_back(layer_index);
}

void WideEpDevice::begin_iteration() {
  for (const int layer : changed_) {
    kernels::copy_bytes(stream_, std::as_bytes(tables_of(host_tables_, layer)),
                        std::as_writable_bytes(tables_of(tables_, layer)).data());
  }
  changed_.clear();
  if (is_counting_) kernels::zero_bytes(stream_, counters_.span<std::byte>(counters_.size()));
}

Status WideEpDevice::end_iteration() {
  if (is_counting_) {
    kernels::copy_bytes(stream_, counters_.span<const std::byte>(counters_.size()),
                        host_counters_.data());
  }
  ended_->set(stream_);
  return exchange_->check();
}

std::span<const int32_t> WideEpDevice::rows_of_slots() {
  ended_->wait();
  return host_counters_.span<const int32_t>(int64_t{options_.num_layers} * shape_.num_slots);
}

Status WideEpDevice::choose_slots(Arena& arena, int layer_index, std::span<const int32_t> ids,
                                  std::span<int32_t> slots, LayerProfile* profile) {
  const Arena::Scope scope(arena);
  kernels::ChooseSlotsParams choice;
  choice.shape = shape_;
  choice.tables = tables_of(tables_, layer_index).data();
  choice.rank = rank_;
  choice.ids = ids;
  choice.slots = slots.data();
  if (!has_replicas(options_.exchange.shape)) {
    begin_phase(profile, stream_, Phase::kSplit);
    kernels::choose_slots(stream_, choice);
    return Status::ok();
  }
  begin_phase(profile, stream_, Phase::kCounts);
  const int num_experts = shape_.num_experts;
  const std::span<int> offsets = arena.take<int>(num_experts + 1);
  const std::span<int> counts = arena.take<int>(num_experts);
  const std::span<int> rows = arena.take<int>(std::ssize(ids));
  kernels::PermutationParams permutation;
  permutation.ids = ids;
  permutation.num_groups = num_experts;
  permutation.offsets = offsets.data();
  permutation.rows = rows.data();
  permutation.pairs = arena.take<int>(std::ssize(ids)).data();
  permutation.counts = counts.data();
  kernels::make_permutation(stream_, permutation);
  choice.rows = rows.data();
  choice.offsets = offsets.data();
  if (options_.choice != ReplicaChoice::kRoundRobin) {
    const std::span<int32_t> all = arena.take<int32_t>(int64_t{shape_.num_ranks} * num_experts);
    RETURN_IF_ERROR(meet_for_phase(profile, stream_, Phase::kCounts));
    RETURN_IF_ERROR(exchange_->gather_counts(stream_, counts, all));
    begin_phase(profile, stream_, Phase::kSplit);
    kernels::SplitBatchParams split;
    split.shape = shape_;
    split.tables = choice.tables;
    split.rule = options_.choice == ReplicaChoice::kQuota ? kernels::SplitRule::kQuota
                                                          : kernels::SplitRule::kPerBatch;
    split.rank = rank_;
    split.counts = all.data();
    split.begin = arena.take<int32_t>(num_experts).data();
    split.ends = arena.take<int32_t>(shape_.num_slots).data();
    kernels::split_batch(stream_, split);
    choice.begin = split.begin;
    choice.ends = split.ends;
  }
  kernels::choose_slots(stream_, choice);
  return Status::ok();
}

int64_t WideEpDevice::choice_scratch_bytes(const Options& options) {
  const SlotExchangeOptions& exchange = options.exchange;
  const int64_t pairs = exchange.max_tokens_of_rank * exchange.layer.top_k;
  return 2 * Arena::matrix_bytes(pairs, 1) +
         Arena::matrix_bytes((exchange.shape.num_ranks + 3) * int64_t{exchange.shape.num_experts},
                             1) +
         Arena::matrix_bytes(exchange.shape.num_slots, 1) + 8 * Arena::kAlignment;
}

}  // namespace wideep::moe
