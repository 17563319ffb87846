#include "engine/replica.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <exception>
#include <numeric>
#include <optional>
#include <span>
#include <utility>

#include "base/check.h"
#include "engine/dp_exchange.h"
#include "kernels/transfer.h"

namespace wideep::engine {
namespace {

// What each rank says at the beginning of an iteration.
struct Announcement {
  int64_t order_bytes = 0;   // of rank 0
  int64_t output_bytes = 0;  // for rank 0
};

}  // namespace

Result<std::unique_ptr<Replica>> Replica::create(ReplicaOptions options) {
  CHECK(options.model != nullptr && options.groups != nullptr && options.stream != nullptr);
  CHECK(options.vocab_size >= 1 && options.page_size >= 1);
  CHECK_EQ(options.page_size * options.groups->cp->size(), options.scheduler.kv_cache.page_tokens);
  CHECK(!options.overlap || options.groups->pp->size() == 1);
  const models::KvSpec spec = options.model->kv_spec();
  const int num_pages = options.scheduler.kv_cache.num_pages;
  const MemorySpace space = kernels::space_of(*options.stream);
  ASSIGN_OR_RETURN(Buffer kv_memory,
                   Buffer::allocate(spec.bytes_per_token() * options.page_size * num_pages, space));
  ASSIGN_OR_RETURN(Buffer logits,
                   Buffer::allocate(int64_t{options.scheduler.max_batch_size} * options.vocab_size *
                                        static_cast<int64_t>(sizeof(float)),
                                    space));
  ASSIGN_OR_RETURN(std::unique_ptr<kernels::Sampler> sampler,
                   kernels::Sampler::create(*options.stream, options.scheduler.max_batch_size));
  auto replica = std::unique_ptr<Replica>(new Replica(std::move(options)));
  replica->kv_spec_ = spec;
  replica->kv_memory_ = std::move(kv_memory);
  replica->logits_ = std::move(logits);
  replica->sampler_ = std::move(sampler);
  // Loads are only kept for who asks.
  moe::WideEp* wide_ep = replica->options_.model->wide_ep();
  if (replica->options_.on_iteration && wide_ep != nullptr) wide_ep->observe();
  RETURN_IF_ERROR(replica->options_.model->set_kv_memory(
      {replica->kv_memory_.data(), num_pages, replica->options_.page_size}));
  return replica;
}

Replica::Replica(ReplicaOptions options)
    : options_(std::move(options)), groups_(*options_.groups), scheduler_(options_.scheduler) {
  options_.frontend.num_schedulers = options_.attention_dp ? groups_.tp->size() : 1;
}

int Replica::scheduler_index() const {
  return options_.attention_dp ? groups_.coordinates.tp_rank : 0;
}

bool Replica::speaks() const {
  const Coordinates& rank = groups_.coordinates;
  return rank.cp_rank == 0 && rank.pp_rank == 0 && rank.tp_rank == scheduler_index();
}

Result<RunStats> Replica::run(RequestQueue* queue) {
  CHECK((queue != nullptr) == (groups_.model->rank() == 0));
  std::optional<Frontend> frontend;
  if (queue != nullptr) frontend.emplace(*queue, options_.frontend);
  const RunStats before = own_stats();
  Status status;
  try {
    status = serve(frontend ? &*frontend : nullptr);
  } catch (const std::exception& error) {
    // Memory, say. The requests must hear of it before this rank ends.
    status = Status::unavailable(error.what());
  }
  if (!status.is_ok()) {
    if (frontend) frontend->fail(status);
    return status;
  }
  return gather_stats(before);
}

Status Replica::serve(Frontend* frontend) {
  while (true) {
    Orders orders;
    if (frontend != nullptr) orders = frontend->collect();
    RETURN_IF_ERROR(exchange(orders, frontend));
    const bool shutdown = orders.shutdown;
    apply(std::move(orders));
    bool any = false;
    if (!shutdown) {
      const Iteration& iteration = scheduler_.plan();
      build_batch(iteration);
      ASSIGN_OR_RETURN(any, exchange_tokens());
      if (any) {
        RETURN_IF_ERROR(begin_iteration(iteration));
        if (frontend != nullptr) report(iteration);
        scheduler_.begin();
      }
    }
    const size_t left = any && options_.overlap ? 1 : 0;
    while (under_way_.size() > left) RETURN_IF_ERROR(complete_iteration(frontend));
    if (shutdown) return Status::ok();
  }
}

Status Replica::exchange(Orders& orders, Frontend* frontend) {
  dist::Communicator& model = *groups_.model;
  if (model.size() == 1) return Status::ok();
  std::vector<std::byte> bytes;
  if (frontend != nullptr && !orders.empty()) bytes = encode(orders);
  std::vector<std::byte> outputs;
  if (!outputs_.empty()) outputs = encode(outputs_);
  outputs_.clear();
  const Announcement own{static_cast<int64_t>(bytes.size()), static_cast<int64_t>(outputs.size())};
  std::vector<Announcement> all(static_cast<size_t>(model.size()));
  RETURN_IF_ERROR(
      model.all_gather(std::as_bytes(std::span(&own, 1)), std::as_writable_bytes(std::span(all))));
  if (const int64_t size = all[0].order_bytes; size > 0) {
    bytes.resize(static_cast<size_t>(size));
    RETURN_IF_ERROR(model.broadcast(bytes, 0));
    if (frontend == nullptr) {
      ASSIGN_OR_RETURN(orders, decode_orders(bytes));
    }
  }
  std::vector<int64_t> output_bytes;
  for (const Announcement& each : all) output_bytes.push_back(each.output_bytes);
  return gather_outputs(outputs, output_bytes, frontend);
}

Status Replica::gather_outputs(std::span<const std::byte> own, std::span<const int64_t> bytes,
                               Frontend* frontend) {
  const int64_t total = std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
  if (total == 0) return Status::ok();
  std::vector<std::byte> all(static_cast<size_t>(total));
  RETURN_IF_ERROR(groups_.model->all_gather_v(own, bytes, all));
  if (frontend == nullptr) return Status::ok();
  std::span<const std::byte> rest = all;
  for (const int64_t count : bytes) {
    const auto size = static_cast<size_t>(count);
    if (size == 0) continue;
    ASSIGN_OR_RETURN(const std::vector<TokenOutput> outputs, decode_outputs(rest.first(size)));
    for (const TokenOutput& output : outputs) frontend->deliver(output);
    rest = rest.subspan(size);
  }
  return Status::ok();
}

void Replica::apply(Orders orders) {
  for (Assignment& assignment : orders.sequences) {
    if (assignment.scheduler == scheduler_index()) scheduler_.add(std::move(assignment.sequence));
  }
  // With attention DP another scheduler may have the sequence, or it has ended.
  for (const RequestId id : orders.cancels) scheduler_.cancel(id);
}

Result<bool> Replica::exchange_tokens() {
  if (!options_.attention_dp) return !batch_.token_ids.empty();
  return exchange_dp_state(groups_, *options_.model, batch_);
}

Status Replica::begin_iteration(const Iteration& iteration) {
  if (options_.statistics != nullptr) options_.statistics->begin_iteration(iterations_);
  ++iterations_;
  computed_tokens_ += iteration.num_tokens;
  copy_pages(iteration.copies);
  const MatrixView logits = matrix_view(reinterpret_cast<float*>(logits_.data()),
                                        iteration.num_wanted, options_.vocab_size);
  RETURN_IF_ERROR(options_.model->forward(batch_, logits));
  if (options_.statistics != nullptr) RETURN_IF_ERROR(options_.statistics->end_iteration());
  if (iteration.num_wanted > 0 && is_last_stage()) sample(iteration);
  under_way_.push_back(iteration.num_wanted);
  return options_.stream->status();
}

Status Replica::complete_iteration(Frontend* frontend) {
  tokens_.resize(static_cast<size_t>(under_way_.front()));
  under_way_.pop_front();
  if (!tokens_.empty()) RETURN_IF_ERROR(take_tokens());
  // Rows that never came make wrong tokens: nobody is told those.
  moe::WideEp* wide_ep = options_.model->wide_ep();
  if (wide_ep != nullptr) RETURN_IF_ERROR(wide_ep->check());
  const std::vector<TokenOutput> outputs = scheduler_.complete(tokens_);
  generated_tokens_ += static_cast<int64_t>(outputs.size());
  if (frontend != nullptr) {
    for (const TokenOutput& output : outputs) frontend->deliver(output);
  } else if (options_.attention_dp && speaks()) {
    outputs_.insert(outputs_.end(), outputs.begin(), outputs.end());
  }
  return Status::ok();
}

void Replica::build_batch(const Iteration& iteration) {
  batch_.token_ids.clear();
  batch_.sequences.clear();
  batch_.logits_rows.clear();
  batch_.sampled_tokens = sampler_->tokens();
  for (const ScheduledSequence& sequence : iteration.sequences) {
    const auto first_row = static_cast<int>(batch_.token_ids.size());
    const auto rows = static_cast<int>(sequence.token_ids.size());
    batch_.token_ids.insert(batch_.token_ids.end(), sequence.token_ids.begin(),
                            sequence.token_ids.end());
    batch_.sequences.push_back({first_row, rows, sequence.first_position, sequence.pages});
    if (sequence.wants_token) batch_.logits_rows.push_back(first_row + rows - 1);
  }
}

void Replica::copy_pages(std::span<const PageCopy> copies) {
  const int64_t token_bytes = kv_spec_.bytes_per_token_and_layer();
  const int64_t page_bytes = token_bytes * options_.page_size;
  const int64_t layer_bytes = page_bytes * options_.scheduler.kv_cache.num_pages;
  // This rank's tokens of the page.
  const int first = groups_.coordinates.cp_rank * options_.page_size;
  for (const PageCopy& copy : copies) {
    const int count = std::clamp(copy.num_tokens - first, 0, options_.page_size);
    if (count == 0) continue;
    for (int layer = 0; layer < kv_spec_.num_layers; ++layer) {
      std::byte* base = kv_memory_.data() + layer * layer_bytes;
      kernels::copy_bytes(*options_.stream,
                          {base + copy.from * page_bytes, static_cast<size_t>(count * token_bytes)},
                          base + copy.to * page_bytes);
    }
  }
}

bool Replica::is_last_stage() const {
  return groups_.coordinates.pp_rank == groups_.pp->size() - 1;
}

void Replica::sample(const Iteration& iteration) {
  sample_requests_.clear();
  for (const ScheduledSequence& sequence : iteration.sequences) {
    if (!sequence.wants_token) continue;
    const int64_t position =
        sequence.first_position + static_cast<int64_t>(sequence.token_ids.size());
    sample_requests_.push_back({sequence.sampling, position});
  }
  const ConstMatrixView logits = matrix_view(reinterpret_cast<const float*>(logits_.data()),
                                             iteration.num_wanted, options_.vocab_size);
  sampler_->start(*options_.stream, logits, sample_requests_);
}

Status Replica::take_tokens() {
  if (is_last_stage()) {
    sampler_->take(*options_.stream, tokens_);
    RETURN_IF_ERROR(options_.stream->status());
  }
  const int last_stage = groups_.pp->size() - 1;
  if (last_stage == 0) return Status::ok();
  return groups_.pp->broadcast(std::as_writable_bytes(std::span(tokens_)), last_stage);
}

void Replica::report(const Iteration& iteration) {
  if (!options_.on_iteration) return;
  moe::WideEp* wide_ep = options_.model->wide_ep();
  std::optional<moe::IterationReport> balancer;
  if (wide_ep != nullptr) balancer = wide_ep->report();
  const std::vector<int>& dp_tokens = batch_.dp_tokens;
  options_.on_iteration(
      {.number = iterations_ - 1,
       .num_sequences = static_cast<int>(iteration.sequences.size()),
       .num_tokens = iteration.num_tokens,
       .all_tokens = options_.attention_dp
                         ? std::accumulate(dp_tokens.begin(), dp_tokens.end(), int64_t{0})
                         : iteration.num_tokens,
       .num_waiting = scheduler_.num_waiting(),
       .num_free_pages = scheduler_.kv_cache().num_available(),
       .balancer = balancer ? &*balancer : nullptr});
}

RunStats Replica::own_stats() const {
  if (!speaks()) return {};
  const SchedulerStats& stats = scheduler_.stats();
  return {.iterations = groups_.model->rank() == 0 ? iterations_ : 0,
          .computed_tokens = computed_tokens_,
          .generated_tokens = generated_tokens_,
          .cached_tokens = stats.cached_tokens,
          .recomputed_tokens = stats.recomputed_tokens,
          .preemptions = stats.preemptions};
}

Result<RunStats> Replica::gather_stats(const RunStats& before) {
  const RunStats now = own_stats();
  std::array<int64_t, 6> sums = {now.iterations - before.iterations,
                                 now.computed_tokens - before.computed_tokens,
                                 now.generated_tokens - before.generated_tokens,
                                 now.cached_tokens - before.cached_tokens,
                                 now.recomputed_tokens - before.recomputed_tokens,
                                 now.preemptions - before.preemptions};
  RETURN_IF_ERROR(groups_.model->all_reduce_sum(std::span<int64_t>(sums)));
  return RunStats{.iterations = sums[0],
                  .computed_tokens = sums[1],
                  .generated_tokens = sums[2],
                  .cached_tokens = sums[3],
                  .recomputed_tokens = sums[4],
                  .preemptions = sums[5]};
}

}  // namespace wideep::engine
