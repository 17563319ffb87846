// A Model whose logits are a hash of the sequence, read back through the pages of the KV memory on
// the ranks that hold them: wrong page tables, positions, chunks, copies or preemption change
// tokens. It also checks what the ranks of a group must agree on. For tests of what drives a model.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "dist/groups.h"
#include "engine/hash_sequence_testing.h"
#include "models/model.h"

namespace wideep::engine {

class HashModel : public models::Model {
 public:
  HashModel(dist::Groups& groups, bool attention_dp, int vocab_size)
      : groups_(groups), attention_dp_(attention_dp), vocab_size_(vocab_size) {}

  // A token is one 64-bit entry in each of two layers.
  models::KvSpec kv_spec() const override {
    return {.num_layers = kLayers, .kv_heads = 1, .row_dim = 2, .dtype = DType::kF32};
  }
  models::ModelMemory memory() const override { return {}; }
  Status set_kv_memory(const models::KvMemory& memory) override {
    memory_ = memory;
    return Status::ok();
  }
  void add_routing_observer(models::RoutingObserver&) override {}
  void remove_routing_observer(models::RoutingObserver&) override {}
  moe::WideEp* wide_ep() override { return nullptr; }

  // Iteration `at` (from 0) fails with `status`.
  void fail_at(int at, Status status) {
    fail_at_ = at;
    failure_ = std::move(status);
  }
  // The logits of every sequence whose first token is `token` are not finite.
  void poison(int token) { poison_ = token; }

  int num_iterations() const { return num_iterations_; }

  Status forward(const models::Batch& batch, MatrixView logits) override {
    if (num_iterations_++ == fail_at_) return failure_;
    RETURN_IF_ERROR(check(batch));
    size_t wanted = 0;
    for (const models::BatchSequence& sequence : batch.sequences) {
      const auto ids = std::span<const int>(batch.token_ids)
                           .subspan(static_cast<size_t>(sequence.first_row),
                                    static_cast<size_t>(sequence.num_rows));
      std::vector<int> tokens(ids.begin(), ids.end());
      for (int& id : tokens) id = id < 0 ? batch.sampled_tokens[-1 - id] : id;
      ASSIGN_OR_RETURN(const uint64_t sum, run(sequence, tokens));
      const int last_row = sequence.first_row + sequence.num_rows - 1;
      if (wanted == batch.logits_rows.size() || batch.logits_rows[wanted] != last_row) continue;
      if (groups_.pp->rank() == groups_.pp->size() - 1) {
        write_logits(sum, logits.row<float>(static_cast<int64_t>(wanted)));
      }
      ++wanted;
    }
    CHECK_EQ(wanted, batch.logits_rows.size());
    return Status::ok();
  }

 private:
  static constexpr int kLayers = 2;
  static constexpr int64_t kEntryBytes = 8;

  // Writes the positions of `tokens` and returns the sum of all entries up to the last.
  Result<uint64_t> run(const models::BatchSequence& sequence, std::span<const int> tokens) {
    const int end = sequence.first_position + sequence.num_rows;
    // The CP ranks put together what each has.
    std::vector<uint64_t> entries(static_cast<size_t>(sequence.first_position));
    for (int p = 0; p < sequence.first_position; ++p) {
      for (int layer = 0; layer < kLayers && holds(p); ++layer) {
        entries[static_cast<size_t>(p)] += *entry(sequence.pages, layer, p) >> layer;
      }
    }
    // Of each entry one rank has all, and the others 0.
    RETURN_IF_ERROR(groups_.cp->all_reduce_sum(
        std::span(reinterpret_cast<int64_t*>(entries.data()), entries.size())));
    first_token_ = sequence.first_position == 0 ? tokens[0] : -1;
    for (int p = sequence.first_position; p < end; ++p) {
      const uint64_t before = p == 0 ? 0 : entries.back();
      const int token = tokens[static_cast<size_t>(p - sequence.first_position)];
      uint64_t sum = 0;
      for (int layer = 0; layer < kLayers; ++layer) {
        const uint64_t value = hash_entry(before + static_cast<uint64_t>(layer), token);
        if (holds(p)) *entry(sequence.pages, layer, p) = value;
        sum += value >> layer;
      }
      entries.push_back(sum);
    }
    uint64_t sum = 0;
    for (const uint64_t each : entries) sum += each;
    return sum;
  }

  bool holds(int position) const {
    return position / memory_.page_size % groups_.cp->size() == groups_.coordinates.cp_rank;
  }
  uint64_t* entry(std::span<const int> pages, int layer, int position) const {
    const int span = memory_.page_size * groups_.cp->size();
    const int page = pages[static_cast<size_t>(position / span)];
    CHECK(page >= 0 && page < memory_.num_pages);
    const int64_t slot = (int64_t{layer} * memory_.num_pages + page) * memory_.page_size +
                         position % memory_.page_size;
    return reinterpret_cast<uint64_t*>(memory_.data + slot * kEntryBytes);
  }

  void write_logits(uint64_t sum, float* row) const {
    for (int id = 0; id < vocab_size_; ++id) {
      const uint64_t hash = mix_hash(sum, static_cast<uint64_t>(id));
      row[id] = static_cast<float>(hash >> 40) / static_cast<float>(1 << 22);  // [0, 4)
      if (first_token_ == poison_) row[id] = std::numeric_limits<float>::quiet_NaN();
    }
  }

  // Ranks that share a batch were given the same, and everybody knows the tokens of everybody.
  Status check(const models::Batch& batch) const {
    uint64_t hash = 0;
    const auto add = [&](uint64_t value) { hash = mix_hash(hash, value); };
    for (const int token : batch.token_ids) add(static_cast<uint64_t>(token));
    for (const models::BatchSequence& each : batch.sequences) {
      add(static_cast<uint64_t>(each.first_position));
      for (const int page : each.pages) add(static_cast<uint64_t>(page));
    }
    for (const int row : batch.logits_rows) add(static_cast<uint64_t>(row));
    RETURN_IF_ERROR(check_equal(*groups_.pp, hash));
    RETURN_IF_ERROR(check_equal(*groups_.cp, hash));
    if (!attention_dp_) return check_equal(*groups_.tp, hash);
    const auto own = static_cast<int>(batch.token_ids.size());
    std::vector<int> tokens(static_cast<size_t>(groups_.tp->size()));
    RETURN_IF_ERROR(groups_.tp->all_gather(std::as_bytes(std::span(&own, 1)),
                                           std::as_writable_bytes(std::span(tokens))));
    CHECK(tokens == batch.dp_tokens);
    int64_t any_other = batch.is_decode() ? 0 : 1;
    RETURN_IF_ERROR(groups_.tp->all_reduce_max(std::span<int64_t>(&any_other, 1)));
    CHECK(batch.all_decode == (any_other == 0));
    return Status::ok();
  }
  static Status check_equal(dist::Communicator& group, uint64_t hash) {
    std::vector<uint64_t> all(static_cast<size_t>(group.size()));
    RETURN_IF_ERROR(group.all_gather(std::as_bytes(std::span(&hash, 1)),
                                     std::as_writable_bytes(std::span(all))));
    CHECK(std::ranges::count(all, hash) == group.size());
    return Status::ok();
  }

  dist::Groups& groups_;
  bool attention_dp_;
  int vocab_size_;
  models::KvMemory memory_;
  int num_iterations_ = 0;
  int fail_at_ = -1;
  Status failure_;
  int poison_ = -2;
  int first_token_ = -1;
};

}  // namespace wideep::engine
